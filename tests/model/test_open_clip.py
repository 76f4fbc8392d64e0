"""Image models of OpenCLIP of every kind, tiny and with random weights."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from advise_ray.config import IFMConfig
from advise_ray.errors import ConfigError
from tests.model.towers import build, noise, normalise, randomise

pytestmark = pytest.mark.usefixtures("one_thread")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

OWN = IFMConfig().weights
"""The default, which leaves a folder its own."""


def test_weights_that_need_quickgelu_are_refused_before_they_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address))
    with pytest.raises(ConfigError) as caught:
        build("open_clip:ViT-B-32", "openai")
    assert str(caught.value) == (
        "model.ifm.name: the weights 'openai' need QuickGELU, which open_clip:ViT-B-32 does not have; "
        "use open_clip:ViT-B-32-quickgelu"
    )
    assert not asked


def test_a_clip_model_with_random_weights() -> None:
    ifm = build("open_clip:ViT-S-32-alt")
    assert ifm(noise(2)).shape == (2, 384, 2, 2)
    torch.testing.assert_close(ifm.mean.flatten() / 255, torch.tensor(CLIP_MEAN))
    torch.testing.assert_close(ifm.std.flatten() / 255, torch.tensor(CLIP_STD))


OWN_MEAN, OWN_STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
VIT = {"layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
VISION = {
    "vit": VIT,
    "resnet": {"layers": [1, 1, 1, 1], "width": 16},
    "trunk": {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": ""},
}
POOLED = {
    "vit, class token": VIT,
    "vit, average": {**VIT, "pool_type": "avg"},
    "resnet": VISION["resnet"],
    "siglip": {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
    "convnext": {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"},
}
Clip = tuple[Path, nn.Module]


@pytest.fixture(params=VISION)
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Clip:
    return tmp_path, tiny_clip(tmp_path, VISION[request.param])


def tiny_clip(tmp_path: Path, vision: dict[str, object]) -> nn.Module:
    """A model, and its folder as open_clip saves models."""
    text = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    model = {"embed_dim": 32, "vision_cfg": {"image_size": 64, **vision}, "text_cfg": text}
    described = {"model_cfg": model, "preprocess_cfg": {"mean": OWN_MEAN, "std": OWN_STD}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    whole = randomise(open_clip.create_model(f"local-dir:{tmp_path}", pretrained_text=False), seed=1)
    save_file(whole.state_dict(), tmp_path / "open_clip_model.safetensors")
    return whole


@pytest.mark.parametrize("layer", [-1, 0])
def test_a_folder_of_open_clip_brings_weights_mean_and_std(clip: Clip, layer: int) -> None:
    folder, whole = clip
    ifm = build(f"open_clip:local-dir:{folder}", OWN, layer=layer)
    frames = noise(2)
    with torch.no_grad():
        levels = whole.visual.forward_intermediates(
            normalise(frames, OWN_MEAN, OWN_STD), normalize_intermediates=layer == -1, intermediates_only=True
        )["image_intermediates"]
    torch.testing.assert_close(ifm(frames), levels[layer], rtol=1e-4, atol=1e-4)


def test_a_folder_without_weights_is_not_trained_on_at_random(clip: Clip) -> None:
    folder, _ = clip
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"^model.ifm.weights: local-dir:.* could not be loaded\.$"):
        build(f"open_clip:local-dir:{folder}", OWN)
    assert build(f"open_clip:local-dir:{folder}", "none").feature_dim > 0


def test_a_layer_that_open_clip_lacks(clip: Clip) -> None:
    folder, _ = clip
    with pytest.raises(ConfigError, match=r"^model.ifm.layer: open_clip:local-dir:\S+ has no layer 9: .*0 to \d"):
        build(f"open_clip:local-dir:{folder}", layer=9)


@pytest.mark.parametrize("tower", POOLED)
def test_from_its_tokens_the_towers_pooling_makes_the_towers_embedding(tmp_path: Path, tower: str) -> None:
    """The adapter drops the class token, which one of the poolings takes; then the same forward pass tells it."""
    visual = tiny_clip(tmp_path, POOLED[tower]).visual
    ifm = build(f"open_clip:local-dir:{tmp_path}", OWN)
    images, grid = normalise(noise(3), OWN_MEAN, OWN_STD), ifm(noise(3))
    tokens = grid.flatten(2).mT
    with torch.no_grad():
        if tower == "resnet":
            pooled = visual.attnpool(grid)
        elif tower == "convnext":
            pooled = visual.head(visual.trunk.forward_head(grid))
        elif tower == "siglip":
            pooled = visual.trunk.fc_norm(visual.trunk.attn_pool(tokens))
        else:
            levels = ifm.backbone.forward_intermediates(
                images, indices=[-1], normalize_intermediates=True, output_extra_tokens=True
            )
            class_token = levels["image_intermediates_prefix"][-1][:, 0]
            pooled = class_token if tower == "vit, class token" else tokens.mean(1)
            pooled = pooled @ visual.proj
        torch.testing.assert_close(pooled, visual(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tower", ["vit", "resnet", "trunk"])
@pytest.mark.parametrize("size_px", [96, 32])
def test_a_clip_tower_takes_another_size(tmp_path: Path, tower: str, size_px: int) -> None:
    """open_clip itself refuses weights of timm's and of its ResNets' at another size than they were trained at."""
    tiny_clip(tmp_path, VISION[tower])
    ifm = build(f"open_clip:local-dir:{tmp_path}", OWN, size_px)
    usual = build(f"open_clip:local-dir:{tmp_path}", OWN)
    patch_px = 32 if tower == "resnet" else 16
    assert ifm(noise(2, size_px)).shape == (2, usual.feature_dim, size_px // patch_px, size_px // patch_px)
    own = usual.state_dict()
    differing = [name for name, tensor in ifm.state_dict().items() if not torch.equal(tensor, own[name])]
    assert len(differing) == (0 if tower == "resnet" else 1), differing  # the positions


def test_a_folder_with_weights_of_its_own_takes_no_others(tmp_path):
    with pytest.raises(
        ConfigError, match=r"^model.ifm.weights: open_clip:local-dir:.* has its own weights; remove 'openai'"
    ):
        build(f"open_clip:local-dir:{tmp_path}", "openai")


def test_a_tower_whose_last_norm_is_of_another_width_gives_its_grid_without_it():
    """CoCa normalises what its attention pooling has seen."""
    with torch.device("meta"):
        assert build("open_clip:coca_ViT-B-32", size_px=64).grid_size == (2, 2)

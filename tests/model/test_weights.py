"""Weights in files: as they are, and as training programs write them."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from advise_ray.errors import ConfigError
from tests.model.towers import build, tiny_timm

pytestmark = pytest.mark.usefixtures("one_thread")
Tensors = dict[str, torch.Tensor]


def below(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


HEAD = {"head.mlp.0.weight": torch.ones(2, 2)}
OPTIONS = argparse.Namespace(lr=0.1, output=Path("out"))
WRAPPED: dict[str, tuple[Callable[[Tensors, Tensors], Any], str]] = {
    "DDP": (lambda own, other: below("module.", own), "took the tensors below `module.`"),
    "torch.compile": (lambda own, other: below("_orig_mod.", own), ""),
    "DDP of torch.compile": (lambda own, other: below("module._orig_mod.", own), "took the tensors below `module.`"),
    "torch.compile of each block": (
        lambda own, other: {name.replace("blocks.0.", "blocks.0._orig_mod."): own[name] for name in own},
        "",
    ),
    "Lightning": (
        lambda own, other: {"epoch": 3, "state_dict": {**below("model.", own), "loss.weight": torch.ones(3)}},
        "took the tensors below `state_dict.model.`, not 1 of state_dict",
    ),
    "timm's train.py": (
        lambda own, other: {"args": OPTIONS, "metric": np.float64(77), "state_dict": other, "state_dict_ema": own},
        "took the tensors below `state_dict_ema.`, not 80 of state_dict",
    ),
    "DINO": (
        lambda own, other: {
            "student": below("module.backbone.", other) | below("module.", HEAD),
            "teacher": below("backbone.", own) | HEAD,
            "args": OPTIONS,
        },
        "took the tensors below `teacher.backbone.`, not 81 of student, 1 of teacher",
    ),
    "MAE": (
        lambda own, other: {"model": {**own, "mask_token": torch.zeros(1), "decoder_pred.bias": torch.zeros(1)}},
        "took the tensors below `model.`, not 2 of model",
    ),
    "V-JEPA": (
        lambda own, other: {
            "encoder": below("module.backbone.", other),
            "predictor": below("module.backbone.", HEAD),
            "target_encoder": below("module.backbone.", own),
        },
        "took the tensors below `target_encoder.module.backbone.`, not 80 of encoder, 1 of predictor",
    ),
    "AveragedModel": (
        lambda own, other: {"n_averaged": torch.tensor(3), **below("module.", own)},
        "took the tensors below `module.`, not 1 of n_averaged",
    ),
    "DeepSpeed": (
        lambda own, other: {"module": below("model.", own)},
        "took the tensors below `module.model.`",
    ),
    "another name": (
        lambda own, other: {**below("image_tower.net.", own), "classes.weight": torch.ones(2, 2)},
        "took the tensors below `image_tower.net.`, not 1 of classes",
    ),
}


@pytest.mark.parametrize("program", WRAPPED)
def test_a_file_of_a_training_program(tmp_path: Path, program: str, caplog: pytest.LogCaptureFixture) -> None:
    wrap, note = WRAPPED[program]
    own, other = (tiny_timm("test_vit", seed=seed, img_size=64).state_dict() for seed in (1, 2))
    torch.save(own, tmp_path / "plain.pt")
    torch.save(wrap(own, other), tmp_path / "wrapped.pt")
    plain = build("timm:test_vit", tmp_path / "plain.pt")
    assert not caplog.messages
    assert build("timm:test_vit", tmp_path / "wrapped.pt").hash_weights() == plain.hash_weights()
    expected = f"note: model.ifm.weights: {tmp_path / 'wrapped.pt'}: {note}"
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == (
        [expected] if note else []
    )


def test_half_precision_and_missing_counters_fit(tmp_path: Path) -> None:
    tensors = tiny_timm("test_efficientnet", seed=1).state_dict()
    torch.save(tensors, tmp_path / "plain.pt")
    halved = {name: tensor.half() for name, tensor in tensors.items() if "num_batches_tracked" not in name}
    save_file(halved, tmp_path / "half.safetensors")
    plain, half = (build("timm:test_efficientnet", tmp_path / name) for name in ("plain.pt", "half.safetensors"))
    for name, tensor in plain.backbone.state_dict().items():
        torch.testing.assert_close(half.backbone.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_names_that_timm_converts(tmp_path: Path, prefix: str) -> None:
    """ConvNeXt's own repository has other names than timm."""
    own = tiny_timm("test_convnext", seed=1).state_dict()
    torch.save(own, tmp_path / "plain.pt")
    renamed = {}
    for name, tensor in own.items():
        for ours, theirs in (
            (r"^stem\.", "downsample_layers.0."),
            (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
            (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
            ("conv_dw", "dwconv"),
            (r"mlp\.fc", "pwconv"),
            (r"^head\.(norm|fc)\.", lambda found: "norm." if found[1] == "norm" else "head."),
        ):
            name = re.sub(ours, theirs, name)
        renamed[name] = tensor
    assert renamed.keys() != own.keys()
    torch.save({"model": below(prefix, renamed)}, tmp_path / "renamed.pt")
    plain, other = (build("timm:test_convnext", tmp_path / name) for name in ("plain.pt", "renamed.pt"))
    assert plain.hash_weights() == other.hash_weights()


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.clip."])
@pytest.mark.parametrize("has_text", [True, False])
def test_a_file_of_a_clip_model(tmp_path: Path, prefix: str, has_text: bool) -> None:
    name = "ViT-S-32-alt"
    with torch.device("meta"):
        clip = open_clip.create_model(name, device="meta", load_weights=False)
    torch.manual_seed(1)
    tensors = {key: torch.rand(tensor.shape) for key, tensor in clip.state_dict().items()}
    kept = {key: tensor for key, tensor in tensors.items() if has_text or key.startswith("visual.")}
    torch.save({"epoch": 1, "state_dict": below(prefix, kept)}, tmp_path / "clip.pt")
    ifm = build(f"open_clip:{name}", tmp_path / "clip.pt", 224)
    for key, tensor in ifm.backbone.state_dict().items():
        assert torch.equal(tensor, tensors[f"visual.{key}"]), key


def test_a_text_model_alone_does_not_fit_a_clip_model(tmp_path: Path) -> None:
    torch.save({"text_projection": torch.ones(2, 2)}, tmp_path / "text.pt")
    with pytest.raises(ConfigError, match=r"text.pt does not fit open_clip:ViT-S-32-alt; its tensors: \d+ missing \("):
        build("open_clip:ViT-S-32-alt", tmp_path / "text.pt")


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"depth": 7}, "12 unexpected (blocks.6.norm1.weight, blocks.6.norm1.bias, blocks.6.attn.qkv.weight, …)"),
        ({"depth": 5}, "12 missing (blocks.5.norm1.weight, blocks.5.norm1.bias, blocks.5.attn.qkv.weight, …)"),
        ({"mlp_ratio": 2}, "18 of another shape (blocks.0.mlp.fc1.weight: 128×64 instead of 192×64, "),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_of_another_model_is_refused_by_what_differs(
    tmp_path: Path, settings, difference: str, prefix: str
) -> None:
    path = tmp_path / "other.pt"
    torch.save(below(prefix, tiny_timm("test_vit", seed=1, img_size=64, **settings).state_dict()), path)
    with pytest.raises(ConfigError) as caught:
        build("timm:test_vit", path)
    its = f"its tensors below `{prefix}`" if prefix else "its tensors"
    assert str(caught.value).startswith(f"model.ifm.weights: {path} does not fit timm:test_vit; {its}: {difference}")
    assert len(str(caught.value)) < 400


def test_the_same_tensors_in_any_kind_of_file_are_the_same_model(tmp_path: Path) -> None:
    tensors = tiny_timm("test_vit", seed=1, img_size=64).state_dict()
    torch.save(tensors, tmp_path / "bare.pt")
    torch.save({key: tensor for key, tensor in tensors.items() if "head" not in key}, tmp_path / "headless.pt")
    save_file(tensors, tmp_path / "weights.safetensors", metadata={"format": "pt"})
    models = [build("timm:test_vit", path) for path in tmp_path.iterdir()]
    assert len({model.hash_weights() for model in models}) == 1
    assert models[0].hash_weights() != build("timm:test_vit").hash_weights()


def test_position_embeddings_are_resized_to_the_crop(tmp_path: Path) -> None:
    torch.save(tiny_timm("test_vit", seed=1).state_dict(), tmp_path / "at_160_px.pt")
    assert build("timm:test_vit", tmp_path / "at_160_px.pt", 64).grid_size == (4, 4)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: argparse.Namespace(options=bomb)])
def test_nothing_in_a_file_is_executed(tmp_path: Path, wrap) -> None:
    path, trace = tmp_path / "weights.pt", tmp_path / "executed"
    torch.save({"state_dict": wrap(Bomb(trace))}, path)
    with pytest.raises(ConfigError, match=rf"^model.ifm.weights: {path} is not a checkpoint of tensors: "):
        build("timm:test_vit", path)
    assert not trace.exists()


@pytest.mark.parametrize("held", [[torch.zeros(1)], {}, {"optimizer": {"state": {0: {"exp_avg": torch.zeros(1)}}}}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, held) -> None:
    torch.save(held, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"other.pt is not a state dict .*, nor does it contain one$"):
        build("timm:test_vit", tmp_path / "other.pt")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.pt").write_text("<html>404</html>")
    with pytest.raises(ConfigError, match=rf"^model.ifm.weights: {tmp_path}/page.pt is not a checkpoint of tensors: "):
        build("timm:test_vit", tmp_path / "page.pt")

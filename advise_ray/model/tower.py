"""Shared by the image models of timm and OpenCLIP: their interface, and errors for wrong names, layers or weights."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from advise_ray.errors import ConfigError
from advise_ray.model.weights_file import one_line

Grid = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Tower:
    """An image model of a library: the network, the function to its feature grid, and the preprocessing of images."""

    backbone: nn.Module
    grid: Grid
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


def prune(backbone: Any, layer: int, name: str) -> int:
    """Remove the layers after `layer`, to save time and memory; return the index of `layer` in the smaller model."""
    try:
        (index,) = backbone.prune_intermediate_layers([layer], prune_norm=layer != -1, prune_head=True)
    except (AssertionError, IndexError, ValueError) as error:
        raise ConfigError([f"model.ifm.layer: {name} has no layer {layer}: {one_line(error)}"]) from None
    except AttributeError:
        raise ConfigError([f"model.ifm.name: {name} has no intermediate features; use another model"]) from None
    return int(index)


@contextlib.contextmanager
def hub_or_its_cache() -> Iterator[None]:
    """Context that uses only the local cache if the hub does not answer, because its library would retry for long."""
    import huggingface_hub.constants

    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # errors of any HTTP library
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def unknown_name(name: str, known: list[str]) -> ConfigError:
    asked = name.split(":", 1)[1]
    begins = [each for each in known if each.startswith(asked)][:3]
    near = [*begins, *difflib.get_close_matches(asked, known, n=3, cutoff=0.4)][:3]
    return ConfigError([f"model.ifm.name: {name} is not known; similar names: {', '.join(near) or 'none'}"])


def no_weights(weights: str, tags: list[str]) -> ConfigError:
    allowed = (
        f"a tag (this model has {', '.join(tags) or 'none'}), a file, `package:NAME`, or `none` for random weights"
    )
    return ConfigError(
        [f"model.ifm.weights: {weights!r} is neither a tag of this model nor a file; allowed: {allowed}"]
    )


def unreachable(what: str, error: Exception) -> ConfigError:
    return ConfigError(
        [
            f"model.ifm.weights: cannot download the weights of {what} ({one_line(error)}); give a local file, or "
            "`none` for random weights"
        ]
    )

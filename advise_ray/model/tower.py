"""What image models of both libraries have in common, and how a name, a layer or weights are refused."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from advise_ray.errors import ConfigError
from advise_ray.model.weights import one_line

Grid = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Tower:
    """An image model as its library gives it: a network, its feature grid, and how its images are prepared."""

    backbone: nn.Module
    grid: Grid
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


def prune(backbone: Any, layer: int, name: str) -> int:
    """Drop what lies above the layer, so that it is neither computed nor held; the layer's index in what remains."""
    try:
        (index,) = backbone.prune_intermediate_layers([layer], prune_norm=layer != -1, prune_head=True)
    except (AssertionError, IndexError, ValueError) as error:
        raise ConfigError([f"model.ifm.layer: {name} has no layer {layer}: {one_line(error)}"]) from None
    except AttributeError:
        raise ConfigError([f"model.ifm.name: {name} gives no intermediate features"]) from None
    return int(index)


@contextlib.contextmanager
def hub_or_its_cache() -> Iterator[None]:
    """Where the hub does not answer at once, ask its cache alone: the hub's library would try for a minute."""
    import huggingface_hub.constants

    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # of whichever HTTP library it is built on
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def unknown_name(name: str, known: list[str]) -> ConfigError:
    asked = name.split(":", 1)[1]
    begins = [each for each in known if each.startswith(asked)][:3]
    near = [*begins, *difflib.get_close_matches(asked, known, n=3, cutoff=0.4)][:3]
    return ConfigError([f"model.ifm.name: {name} is not known; nearest: {', '.join(near) or 'none'}"])


def no_weights(weights: str, tags: list[str]) -> ConfigError:
    allowed = f"a tag ({', '.join(tags) or 'it has none'}), a file, `package:NAME`, or `none` for random weights"
    return ConfigError(
        [f"model.ifm.weights: {weights!r} is neither a tag of this model nor a file; allowed: {allowed}"]
    )


def unreachable(what: str, error: Exception) -> ConfigError:
    return ConfigError(
        [
            f"model.ifm.weights: cannot get the weights of {what} ({one_line(error)}); give a local file, or "
            "`none` for random weights"
        ]
    )

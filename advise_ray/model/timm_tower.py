"""Builds image models of timm."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advise_ray.model.tower import Grid, Tower, hub_or_its_cache, no_weights, prune, unknown_name, unreachable
from advise_ray.model.weights import Tensors, fill, packaged_weights
from advise_ray.model.weights_file import Checkpoint, read_checkpoint


def build_timm(name: str, weights: str, input_size_px: int, layer: int) -> Tower:
    import timm

    if not timm.is_model(name):
        raise unknown_name(f"timm:{name}", timm.list_models())
    source = timm.get_pretrained_cfg(name)
    size = {"img_size": input_size_px} if source is not None and source.fixed_input_size else {}
    from_hub = weights != "none" and not weights.startswith("package:") and not Path(weights).is_file()
    tagged = f"{name.split('.')[0]}.{weights}" if from_hub else name
    if from_hub and tagged not in timm.list_pretrained():
        raise no_weights(weights, [tag.split(".", 1)[1] for tag in timm.list_pretrained(f"{name.split('.')[0]}.*")])
    with hub_or_its_cache() if from_hub else contextlib.nullcontext():
        try:
            backbone = timm.create_model(tagged, pretrained=from_hub, **size)
        except OSError as error:
            raise unreachable(tagged, error) from None
    if weights != "none" and not from_hub:
        is_package = weights.startswith("package:")
        held = Checkpoint(packaged_weights(weights, backbone), [""]) if is_package else read_checkpoint(Path(weights))
        fill(backbone, held, weights, f"timm:{name}", converter(backbone))
    settings = timm.data.resolve_model_data_config(backbone)
    grid = timm_grid(backbone, layer, f"timm:{name}")
    return Tower(backbone, grid, settings["mean"], settings["std"], settings["interpolation"])


def converter(backbone: nn.Module) -> Callable[[Tensors], Tensors]:
    """Return timm's conversion for this model family; among other things it resizes positional embeddings."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    return dict if convert is None else lambda tensors: convert(dict(tensors), backbone)


def timm_grid(backbone: Any, layer: int, name: str) -> Grid:
    index = prune(backbone, layer, name)
    norm = layer == -1

    def grid(images: torch.Tensor) -> torch.Tensor:
        nonlocal norm
        try:
            (features,) = backbone.forward_intermediates(
                images, indices=[index], norm=norm, stop_early=True, intermediates_only=True
            )
        except AssertionError as error:
            if not norm or "norm" not in str(error):
                raise
            norm = False  # a few models (Hiera) have no norm after their last grid
            return grid(images)
        return features

    return grid

"""Builds image models of OpenCLIP: its own ViTs and ResNets, and models of timm inside a CLIP model."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advise_ray.config import IFMConfig
from advise_ray.errors import ConfigError
from advise_ray.model.attention import fuse_attention
from advise_ray.model.timm_tower import converter, timm_grid
from advise_ray.model.tower import Grid, Tower, hub_or_its_cache, no_weights, prune, unknown_name, unreachable
from advise_ray.model.weights import Tensors, fill
from advise_ray.model.weights_file import one_line, read_checkpoint


def build_open_clip(name: str, weights: str, input_size_px: int, layer: int) -> Tower:
    import open_clip

    is_folder = name.startswith("local-dir:")
    if not is_folder and name not in open_clip.list_models():
        raise unknown_name(f"open_clip:{name}", open_clip.list_models())
    if not is_folder and (open_clip.get_model_config(name).get("text_cfg") or {}).get("hf_model_name"):
        problem = (
            f"model.ifm.name: open_clip:{name} needs a text model from the Hugging Face hub, which workers do not use"
        )
        raise ConfigError([f"{problem}; use a model with OpenCLIP's own text model"])
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights != "none" and not is_folder and weights not in tags and not Path(weights).is_file():
        raise no_weights(weights, tags)
    if weights in tags:
        _check_activation(name, weights)
    if is_folder and weights not in ("none", IFMConfig().weights):
        problem = f"model.ifm.weights: open_clip:{name} has its own weights; remove {weights!r}, or set it to `none`"
        raise ConfigError([problem])
    # Files and random weights come without mean and std; then those of the model's first tag are used.
    usual = open_clip.get_pretrained_cfg(name, tags[0]) if tags and weights not in tags else {}
    is_file = weights != "none" and not is_folder and weights not in tags
    try:
        with hub_or_its_cache() if weights in tags else contextlib.nullcontext(), _quiet_root_logger():
            clip = open_clip.create_model(
                name,
                pretrained=weights if weights in tags else None,
                load_weights=weights != "none",
                require_pretrained=weights != "none"
                and not is_file,  # otherwise a folder without weights gives random weights
                force_preprocess_cfg={key: usual[key] for key in ("mean", "std", "interpolation") if key in usual},
                pretrained_text=False,
                device=torch.get_default_device(),  # open_clip's default would undo `with torch.device("meta")`
            )
    except Exception as error:  # errors of files, of the network, or of tensors that do not fit
        if weights in tags:
            raise unreachable(f"{name}, {weights}", error) from None
        if not is_folder:
            raise
        raise ConfigError([f"model.ifm.weights: {name} does not fit open_clip:{name}: {one_line(error)}"]) from None
    visual = clip.visual
    if is_file:
        _fill_from_file(clip, Path(weights), f"open_clip:{name}")
    _set_input_size(clip, input_size_px)
    if hasattr(visual, "trunk"):  # SigLIP, ConvNeXt and others contain a timm model
        backbone, grid = visual.trunk, timm_grid(visual.trunk, layer, f"open_clip:{name}")
    else:
        backbone, grid = visual, _open_clip_grid(visual, layer, f"open_clip:{name}")
    prepared = visual.preprocess_cfg
    return Tower(backbone, grid, prepared["mean"], prepared["std"], prepared["interpolation"])


def _set_input_size(clip: Any, size_px: int) -> None:
    """Resize positional embeddings. OpenCLIP (3.3) does so when it loads weights, but only for its own ViTs."""
    visual = clip.visual
    if hasattr(visual, "trunk"):
        if hasattr(visual.trunk, "set_input_size"):
            visual.trunk.set_input_size(img_size=size_px)
    elif hasattr(visual, "positional_embedding"):
        visual.image_size = (size_px, size_px)
        visual.grid_size = (size_px // visual.patch_size[0], size_px // visual.patch_size[1])
        resized = _resize_positions(clip, {"positional_embedding": visual.positional_embedding.data})
        visual.positional_embedding = nn.Parameter(resized["positional_embedding"])


def _resize_positions(clip: Any, tensors: Tensors) -> Tensors:
    """Return the image tower's tensors, with positional embeddings of its grid."""
    from open_clip.model import resize_pos_embed

    named = {f"visual.{key}": tensor for key, tensor in tensors.items()}
    resize_pos_embed(named, clip)
    return {key.removeprefix("visual."): tensor for key, tensor in named.items()}


def _fill_from_file(clip: Any, path: Path, name: str) -> None:
    """Load the image tower from a checkpoint of the whole model, of its image tower, or of timm's model in it."""
    if path.suffix == ".npz":  # weights of big_vision, such as SigLIP's
        import open_clip

        try:
            open_clip.load_checkpoint(clip, str(path))
        except Exception as error:  # open_clip raises many kinds of errors
            raise ConfigError([f"model.ifm.weights: {path} does not fit {name}: {one_line(error)}"]) from None
        return
    visual, held = clip.visual, read_checkpoint(path)
    if hasattr(visual, "trunk"):
        fill(visual.trunk, held, str(path), name, converter(visual.trunk))
    else:
        fill(visual, held, str(path), name, lambda tensors: _resize_positions(clip, tensors))


def _open_clip_grid(visual: Any, layer: int, name: str) -> Grid:
    is_vit = hasattr(visual, "prune_intermediate_layers")
    index = prune(visual, layer, name) if is_vit else _prune_resnet(visual, layer, name)
    if is_vit:
        fuse_attention(visual.transformer.resblocks)
    last = layer == -1 and (not is_vit or visual.ln_post.normalized_shape[0] == visual.conv1.out_channels)  # no CoCa

    def grid(images: torch.Tensor) -> torch.Tensor:
        outputs = visual.forward_intermediates(
            images, indices=[index], stop_early=is_vit, normalize_intermediates=last, intermediates_only=True
        )
        return outputs["image_intermediates"][0]

    return grid


def _prune_resnet(visual: Any, layer: int, name: str) -> int:
    """Do the same as `prune` for OpenCLIP's own ResNets, which have no such method. The stem is level 0."""
    levels = 5
    if not -levels <= layer < levels:
        raise ConfigError([f"model.ifm.layer: {name} has no layer {layer}: its layers are 0 to {levels - 1}"])
    index = layer % levels
    for above in range(index + 1, levels):
        setattr(visual, f"layer{above}", nn.Identity())
    visual.attnpool = None
    return index


def _check_activation(name: str, tag: str) -> None:
    """Raise ConfigError if weights need QuickGELU and the model has none: OpenCLIP would silently be wrong."""
    import open_clip

    trained_with = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu"))
    if trained_with and not open_clip.get_model_config(name).get("quick_gelu"):
        raise ConfigError(
            [
                f"model.ifm.name: the weights {tag!r} need QuickGELU, which open_clip:{name} does not have; "
                f"use open_clip:{name}-quickgelu"
            ]
        )


@contextlib.contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Silence the root logger, because OpenCLIP logs errors there that it also raises."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)

"""The image foundation model: frozen, from timm or open_clip, one patch-feature grid a frame."""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advise_ray.config import IFMConfig
from advise_ray.errors import ConfigError
from advise_ray.model.precision import DTYPES, arithmetic
from advise_ray.model.weights import fill, one_line, packaged_weights, read_weights

CPU_CHUNK_PX = 2**18
"""Pixels that go through the model at once on a CPU: activations then stay in its caches. Measured with lite0 in bf16
on 2 cores at 128 px: 2.7 times as fast as 256 frames at once."""
Grid = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Tower:
    """An image model as its library gives it: a network, its feature grid, and how its images are prepared."""

    backbone: nn.Module
    grid: Grid
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


class IFM(nn.Module):
    """A frozen image model as a function from frames to feature grids.

    It cannot be trained by mistake: `train()` leaves it in eval mode, no parameter asks for a gradient, and `forward`
    records none.

    Attributes:
        dtype: number format of its weights; `arithmetic` says what is computed in.
        feature_dim: channels of the grid (D).
        grid_size: (h, w) at the input size that it was built for.
        interpolation: how images were resized for it when it was trained, `bicubic`, `bilinear`, …
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, tower: Tower, dtype: torch.dtype, input_size_px: int, *, compiled: bool = False) -> None:
        super().__init__()
        self.backbone = tower.backbone.eval().requires_grad_(False).to(dtype).to(memory_format=torch.channels_last)
        self.backbone.to(arithmetic(dtype, "cpu"))  # rounded to `dtype` for good, whatever it is computed in
        # For pixels from 0 to 255. They belong to the weights and travel with them: tags of one architecture differ.
        self.register_buffer("mean", torch.tensor(tower.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(tower.std).view(1, 3, 1, 1) * 255)
        self.interpolation = tower.interpolation
        self.dtype = dtype
        self.training = False
        self._grid = tower.grid
        features = self(torch.zeros(1, input_size_px, input_size_px, 3, dtype=torch.uint8))
        self.feature_dim = features.shape[1]
        self.grid_size: tuple[int, int] = (features.shape[2], features.shape[3])
        if compiled:  # at the first batch; the last chunk of a batch is smaller, hence dynamic
            self._grid = torch.compile(tower.grid, dynamic=True)

    @torch.no_grad()
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8[N, H, W, 3], RGB → [N, D, h, w] in what is computed in, normalised with the model's mean and std."""
        if frames.device.type != "cpu":
            return self.encode(frames)
        frames_at_once = max(1, CPU_CHUNK_PX // (frames.shape[1] * frames.shape[2]))
        return torch.cat([self.encode(chunk) for chunk in frames.split(frames_at_once)])

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """The same, all frames at once."""
        images = frames.movedim(-1, 1)  # NHWC in memory is channels-last already: no copy
        normalised = torch.addcmul(-self.mean / self.std, images, 1 / self.std)  # from uint8 in one pass
        return self._grid(normalised.to(arithmetic(self.dtype, frames.device.type)))

    def _apply(self, fn: Any, recurse: bool = True) -> IFM:
        """Of `to(device)` and its like: there, another format may be the fast one."""
        super()._apply(fn, recurse)
        self.backbone.to(arithmetic(self.dtype, self.mean.device.type))
        return self

    def train(self, mode: bool = True) -> IFM:
        """Stay in eval mode, whoever asks: batch-norm statistics and dropout of a frozen model never move."""
        return self

    def hash_weights(self) -> str:
        """SHA-256 over names, shapes and bytes of all parameters and buffers in `dtype`, the same on any device."""
        digest = hashlib.sha256()
        for name, held in sorted(self.state_dict().items()):
            is_weight = name.startswith("backbone.") and held.is_floating_point()
            tensor = held.to(self.dtype) if is_weight else held
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def build_ifm(config: IFMConfig, input_size_px: int) -> IFM:
    """The image model with its weights, as `config` names them.

    Raises:
        ConfigError: the name or the layer is not known, the weights are not there or do not fit.
    """
    return _build(config, input_size_px, config.weights)


@functools.lru_cache(maxsize=1)
def kept_ifm(config: IFMConfig, input_size_px: int) -> IFM:
    """The same, and the same one again: it is frozen, and many short runs in one process need not build it anew."""
    return build_ifm(config, input_size_px)


def empty_ifm(config: IFMConfig, input_size_px: int) -> IFM:
    """The image model without its weights, for a state dict that another process sends: no file, no network."""
    return _build(config, input_size_px, "none")


def _build(config: IFMConfig, input_size_px: int, weights: str) -> IFM:
    compilers = [os.environ.get("CXX", "g++"), "g++", "clang++"]
    if config.compile and not torch.cuda.is_available() and not any(map(shutil.which, compilers)):
        problem = "model.ifm.compile: torch.compile needs a C++ compiler here; apt-get install g++, or set it to false"
        raise ConfigError([problem])
    library, _, name = config.name.partition(":")
    build = {"timm": _build_timm, "open_clip": _build_open_clip}[library]
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(0)  # random weights are the same in every process
            warnings.simplefilter("ignore")
            tower = build(name, weights, input_size_px, config.layer)
        return IFM(tower, DTYPES[config.precision], input_size_px, compiled=config.compile)
    except (ArithmeticError, AssertionError, RuntimeError, ValueError) as error:  # a size below or between its patches
        problem = f"augment.crop_size_px: {config.name} cannot take {input_size_px} px: {one_line(error)}"
        raise ConfigError([problem]) from None


def _build_timm(name: str, weights: str, input_size_px: int, layer: int) -> Tower:
    import timm

    if not timm.is_model(name):
        raise _unknown_name(f"timm:{name}", timm.list_models())
    source = timm.get_pretrained_cfg(name)
    size = {"img_size": input_size_px} if source is not None and source.fixed_input_size else {}
    from_hub = weights != "none" and not weights.startswith("package:") and not Path(weights).is_file()
    tagged = f"{name.split('.')[0]}.{weights}" if from_hub else name
    if from_hub and tagged not in timm.list_pretrained():
        raise _no_weights(weights, [tag.split(".", 1)[1] for tag in timm.list_pretrained(f"{name.split('.')[0]}.*")])
    with _hub_or_its_cache() if from_hub else contextlib.nullcontext():
        try:
            backbone = timm.create_model(tagged, pretrained=from_hub, **size)
        except OSError as error:
            raise _unreachable(tagged, error) from None
    if weights.startswith("package:"):
        fill(backbone, packaged_weights(weights, backbone), weights)
    elif weights != "none" and not from_hub:
        fill(backbone, read_weights(Path(weights)), weights)
    settings = timm.data.resolve_model_data_config(backbone)
    grid = _timm_grid(backbone, layer, f"timm:{name}")
    return Tower(backbone, grid, settings["mean"], settings["std"], settings["interpolation"])


def _timm_grid(backbone: Any, layer: int, name: str) -> Grid:
    index = _prune(backbone, layer, name)
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
            norm = False  # a few (Hiera) have no norm of their last grid
            return grid(images)
        return features

    return grid


def _build_open_clip(name: str, weights: str, input_size_px: int, layer: int) -> Tower:
    import open_clip

    is_folder = name.startswith("local-dir:")
    if not is_folder and name not in open_clip.list_models():
        raise _unknown_name(f"open_clip:{name}", open_clip.list_models())
    if not is_folder and (open_clip.get_model_config(name).get("text_cfg") or {}).get("hf_model_name"):
        problem = f"model.ifm.name: open_clip:{name} has a text half that only the hub has, and workers do not ask it"
        raise ConfigError([f"{problem}; name a model of open_clip's own"])
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights != "none" and not is_folder and weights not in tags and not Path(weights).is_file():
        raise _no_weights(weights, tags)
    if weights in tags:
        _check_activation(name, weights)
    if is_folder and weights not in ("none", IFMConfig().weights):
        problem = (
            f"model.ifm.weights: {weights!r}, but open_clip:{name} has weights of its own; leave it out, or `none`"
        )
        raise ConfigError([problem])
    # A file says nothing about its mean and std, random weights have none: then those of the model's first tag hold.
    usual = open_clip.get_pretrained_cfg(name, tags[0]) if tags and weights not in tags else {}
    try:
        with _hub_or_its_cache() if weights in tags else contextlib.nullcontext(), _quiet_root_logger():
            clip = open_clip.create_model(
                name,
                pretrained=None if weights == "none" or is_folder else weights,
                load_weights=weights != "none",
                require_pretrained=weights != "none",  # else a folder without weights gives random ones
                force_preprocess_cfg={key: usual[key] for key in ("mean", "std", "interpolation") if key in usual},
                pretrained_text=False,
                device=torch.get_default_device(),  # open_clip's default would undo `with torch.device("meta")`
            )
    except Exception as error:  # of reading any file, of the network, of tensors that do not fit
        if weights in tags:
            raise _unreachable(f"{name}, {weights}", error) from None
        if weights == "none" and not is_folder:
            raise
        source = name if is_folder else weights
        raise ConfigError([f"model.ifm.weights: {source} does not fit open_clip:{name}: {one_line(error)}"]) from None
    visual = clip.visual
    _set_input_size(clip, input_size_px)
    if hasattr(visual, "trunk"):  # SigLIP, ConvNeXt and others: a timm model within
        backbone, grid = visual.trunk, _timm_grid(visual.trunk, layer, f"open_clip:{name}")
    else:
        backbone, grid = visual, _open_clip_grid(visual, layer, f"open_clip:{name}")
    prepared = visual.preprocess_cfg
    return Tower(backbone, grid, prepared["mean"], prepared["std"], prepared["interpolation"])


def _set_input_size(clip: Any, size_px: int) -> None:
    """Resize positional embeddings; open_clip does so when it loads, but only those of its own ViTs (3.3)."""
    visual = clip.visual
    if hasattr(visual, "trunk"):
        if hasattr(visual.trunk, "set_input_size"):
            visual.trunk.set_input_size(img_size=size_px)
    elif hasattr(visual, "positional_embedding"):
        from open_clip.model import resize_pos_embed

        visual.image_size = (size_px, size_px)
        visual.grid_size = (size_px // visual.patch_size[0], size_px // visual.patch_size[1])
        positions = {"visual.positional_embedding": visual.positional_embedding.data}
        resize_pos_embed(positions, clip)
        visual.positional_embedding = nn.Parameter(positions["visual.positional_embedding"])


def _open_clip_grid(visual: Any, layer: int, name: str) -> Grid:
    is_vit = hasattr(visual, "prune_intermediate_layers")
    index = _prune(visual, layer, name) if is_vit else _prune_resnet(visual, layer, name)
    last = layer == -1 and (not is_vit or visual.ln_post.normalized_shape[0] == visual.conv1.out_channels)  # CoCa: not

    def grid(images: torch.Tensor) -> torch.Tensor:
        outputs = visual.forward_intermediates(
            images, indices=[index], stop_early=is_vit, normalize_intermediates=last, intermediates_only=True
        )
        return outputs["image_intermediates"][0]

    return grid


def _prune_resnet(visual: Any, layer: int, name: str) -> int:
    """As `_prune`, for open_clip's own ResNets, which cannot do it; the stem is level 0."""
    levels = 5
    if not -levels <= layer < levels:
        raise ConfigError([f"model.ifm.layer: {name} has no layer {layer}: it has 0 to {levels - 1}"])
    index = layer % levels
    for above in range(index + 1, levels):
        setattr(visual, f"layer{above}", nn.Identity())
    visual.attnpool = None
    return index


def _check_activation(name: str, tag: str) -> None:
    """Refuse a tag that was trained with QuickGELU under a name without it: open_clip loads it and is quietly off."""
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
def _hub_or_its_cache() -> Iterator[None]:
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


@contextlib.contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """open_clip logs on the root logger, what is then raised as well."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _prune(backbone: Any, layer: int, name: str) -> int:
    """Drop what lies above the layer, so that it is neither computed nor held; the layer's index in what remains."""
    try:
        (index,) = backbone.prune_intermediate_layers([layer], prune_norm=layer != -1, prune_head=True)
    except (AssertionError, IndexError, ValueError) as error:
        raise ConfigError([f"model.ifm.layer: {name} has no layer {layer}: {one_line(error)}"]) from None
    except AttributeError:
        raise ConfigError([f"model.ifm.name: {name} gives no intermediate features"]) from None
    return int(index)


def _unknown_name(name: str, known: list[str]) -> ConfigError:
    asked = name.split(":", 1)[1]
    begins = [each for each in known if each.startswith(asked)][:3]
    near = [*begins, *difflib.get_close_matches(asked, known, n=3, cutoff=0.4)][:3]
    return ConfigError([f"model.ifm.name: {name} is not known; nearest: {', '.join(near) or 'none'}"])


def _no_weights(weights: str, tags: list[str]) -> ConfigError:
    allowed = f"a tag ({', '.join(tags) or 'it has none'}), a file, `package:NAME`, or `none` for random weights"
    return ConfigError(
        [f"model.ifm.weights: {weights!r} is neither a tag of this model nor a file; allowed: {allowed}"]
    )


def _unreachable(what: str, error: Exception) -> ConfigError:
    return ConfigError(
        [
            f"model.ifm.weights: cannot get the weights of {what} ({one_line(error)}); give a local file, or "
            "`none` for random weights"
        ]
    )

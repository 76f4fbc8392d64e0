"""`advise_ray.load`: loads a trained model in another program, without Ray and without MLflow."""

from __future__ import annotations

import contextlib
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
from advise_ray.evaluation.encode_clips import EncodeClips
from advise_ray.evaluation.metrics import softmax
from advise_ray.model.advise import AdViSe, build_advise
from advise_ray.training import checkpoint
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.probe import LIMITS, Limits, VideoInfo
from advise_ray.video.sampling import spread_clips

MLFLOW_URI = re.compile(r"(models|runs):/")


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

    def predict(
        self,
        video: Path | str | bytes,
        *,
        num_clips: int = 10,
        num_crops: int | None = None,
        decoder: DecodeProcess | None = None,
    ) -> dict[str, float]:
        """Class probabilities of a video, averaged over evenly spread clips and their crops.

        With the default numbers, these are the scores of `evaluate --protocol multiview`.

        Args:
            video: a path, a URL, or the bytes of a video file.
            num_crops: crops along the longer side of each clip. None: see `default_crops`.
            decoder: the process that decodes. None: the call starts one, which takes half a second.

        Raises:
            VideoDecodeError: the video cannot be decoded in time, or it exceeds a limit.
            DecoderError: see `DecodeProcess`.
        """
        with contextlib.ExitStack() as stack:
            decoder = decoder or stack.enter_context(DecodeProcess(self.config.data.decode_timeout_s))
            _, frames, clips = self.read(decoder, video, num_clips)
        return dict(zip(self.classes, self.scores(frames, clips, num_crops).tolist(), strict=True))

    def read(
        self, decoder: DecodeProcess, video: Path | str | bytes, num_clips: int = 10, *, limits: Limits = LIMITS
    ) -> tuple[VideoInfo, NDArray[np.uint8], NDArray[np.int64]]:
        """Decode the frames of a video's clips. For the arguments and errors, see `predict`.

        Returns:
            The file's properties; each frame once, uint8[F, H, W, 3]; and the clips, int64[num_clips, T], as positions
            among these frames.
        """
        source, name = (video, "<bytes>") if isinstance(video, bytes) else (str(video), str(video))
        size, most_px = self.config.augment, min(limits.max_pixels, self.config.data.max_pixels)
        info = decoder.probe(source, name, replace(limits, max_pixels=most_px))
        wanted = spread_clips(info.num_frames, played_clip(self.config), num_clips, info.fps)
        indices, places = np.unique(wanted, return_inverse=True)
        frames = decoder.decode(
            source,
            indices,
            name=name,
            height_px=size.resize_height_px,
            width_px=size.resize_width_px,
            decoder=info.decoder,
            stream_index=info.stream_index,
            rotation_deg=info.rotation_deg,
        )
        return info, frames, places.reshape(wanted.shape)

    def scores(
        self, frames: NDArray[np.uint8], clips: NDArray[np.int64], num_crops: int | None = None
    ) -> NDArray[np.float64]:
        """Class probabilities float64[classes] of what `read` returns, averaged over clips and crops."""
        encode = EncodeClips(self.config, "logits", num_crops or default_crops(self.config))
        shares = softmax(encode.encode(self, self.device, frames, clips))
        mean: NDArray[np.float64] = shares.mean(axis=(0, 1))
        return mean


def default_crops(config: Config) -> int:
    """Number of crops of each clip: 3 for actions, as the multiview protocol; else the centre crop, as validation."""
    return 3 if config.task == "action" else 1


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

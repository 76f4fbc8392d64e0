"""The frozen road from clips to numbers: every video once, each of its frames decoded and encoded once, or cached.

The clips of a video that is evaluated share frames (ten clips spread over two seconds, the same clip shuffled), and
nothing is drawn by lot: so a frame goes through the image model once, whatever the number of clips that show it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from advise_ray.backend.frame_encoder import encode_groups
from advise_ray.cache.compatibility import differences
from advise_ray.cache.store import FeatureStore, read_rejects
from advise_ray.config import Config
from advise_ray.errors import ConfigError, EvaluationError, VideoDecodeError
from advise_ray.model.advise import AdViSe
from advise_ray.model.precision import autocast
from advise_ray.video.augment_draws import view_crops
from advise_ray.video.frames import group_of
from advise_ray.video.manifest import Video

log = logging.getLogger("advise_ray")
Output = Literal["logits", "embedding", "tokens"]
"""Per clip and crop: float[classes], float[E], or what the TMM gives, float[E, T, s, s]."""
FRAMES_AT_ONCE = 128
Clips = dict[int, NDArray[np.int64]]
"""Row of the manifest → int64[K, T], frames of the video."""


@dataclass(frozen=True)
class Encoded:
    """What the model says of one video.

    Attributes:
        row: of the manifest.
        values: float32[K, crops, …], see `Output`; None where the video could not be decoded.
        failure: why not.
    """

    row: int
    values: NDArray[np.float32] | None
    failure: str | None


@dataclass(frozen=True)
class Encoder:
    """A model at work on a manifest's videos."""

    config: Config
    model: AdViSe
    num_classes: int
    videos: Sequence[Video]
    use_gpu: bool

    def encode(
        self,
        clips: Clips,
        output: Output,
        num_crops: int = 1,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[int, Encoded]:
        """Decode and encode clips, or take their features from `data.features`, which has the centre crop.

        Args:
            num_crops: squares along the longer side; one is the centre.

        Raises:
            EvaluationError: too many videos cannot be decoded; or a video is missing or came twice.
            ConfigError: the feature cache is of another model.
        """
        cached = self._cached(clips, num_crops)
        stream = self._stream(clips, output, num_crops) if cached is None else self._read(cached, clips, output)
        outcomes: dict[int, Encoded] = {}
        for outcome in stream:
            if outcome.row in outcomes or outcome.row not in clips:
                raise EvaluationError(
                    f"{self.videos[outcome.row].video_id} came twice: this is a bug, please report it"
                )
            outcomes[outcome.row] = outcome
            on_progress(len(outcomes), len(clips))
        if missing := clips.keys() - outcomes.keys():
            raise EvaluationError(f"{len(missing)} videos were lost on the way: this is a bug, please report it")
        failed = [outcome for outcome in outcomes.values() if outcome.failure is not None]
        if len(failed) > self.config.data.max_failed_fraction * len(clips):
            raise EvaluationError(
                f"{len(failed)} of {len(clips)} videos cannot be decoded, more than data.max_failed_fraction="
                f"{self.config.data.max_failed_fraction} allows; such as {self.videos[failed[0].row].video_id}: "
                f"{failed[0].failure}"
            )
        return outcomes

    def _cached(self, clips: Clips, num_crops: int) -> FeatureStore | None:
        """The feature cache, where it has all that is asked for."""
        location = self.config.data.features
        if location is None:
            return None
        cached = FeatureStore(location)
        if problems := differences(cached.identity, self.config, self.model, self.model.ifm.hash_weights()):
            raise ConfigError([*problems, "data.features: another model's features; set data.features=null to decode"])
        rejects = read_rejects(location)  # counted as videos that cannot be decoded
        wanted = (self.videos[row] for row in clips)
        missing = sum(not cached.has(video) and video.alone().video_id not in rejects for video in wanted)
        if num_crops > 1:
            log.warning("note: a feature cache has the centre crop alone; %d crops are decoded", num_crops)
        elif missing:
            log.warning("note: the feature cache lacks %d of %d videos; all are decoded", missing, len(clips))
        else:
            return cached
        return None

    def _stream(self, clips: Clips, output: Output, num_crops: int) -> Iterator[Encoded]:
        """By way of Ray Data; a video is a group."""
        groups, places = [], {}
        for row, wanted in clips.items():
            frames, inverse = np.unique(wanted, return_inverse=True)
            groups.append(group_of([(row, self.videos[row], frames)]))
            places[row] = inverse.reshape(wanted.shape)
        function = EncodeClips(self.config, output, num_crops, places)
        for block in encode_groups(groups, function, self.config, self.model, self.num_classes):
            failure = str(block["failures"][0])
            yield Encoded(int(block["rows"][0][0]), None if failure else np.array(block["values"][0]), failure or None)

    def _read(self, cached: FeatureStore, clips: Clips, output: Output) -> Iterator[Encoded]:
        """In this process: what is left of the model is small."""
        device = torch.device("cuda" if self.use_gpu else "cpu")
        self.model.temporal.to(device)  # the image model stays where it is
        model, apply = self.model.eval(), EncodeClips(self.config, output, 1, {})
        for row, wanted in clips.items():
            frames, places = np.unique(wanted, return_inverse=True)
            features = np.empty((len(frames), *cached.identity.frame_shape), dtype=np.float16)
            try:
                cached.read_into([features], self.videos[row], frames[None], [0])
            except VideoDecodeError as error:
                yield Encoded(row, None, error.reason)
                continue
            grid = torch.from_numpy(features).to(device).permute(0, 3, 1, 2)
            values = apply.clips(model, grid, torch.as_tensor(places.reshape(wanted.shape), device=device))
            yield Encoded(row, values[:, None].float().cpu().numpy(), None)


@dataclass(frozen=True)
class EncodeClips:
    """Applied to the decoded frames of one video, see `DecodeFrames`: out come `values` float32[1, K, crops, …]."""

    config: Config
    output: Output
    num_crops: int
    places: Clips
    """Row of the manifest → int64[K, T], places among its decoded frames."""

    @torch.inference_mode()
    def __call__(self, model: AdViSe, device: torch.device, block: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        values = np.zeros((1, 1, 1), dtype=np.float32)
        if not str(block["failures"][0]):
            frames = torch.as_tensor(np.array(block["frames"][0])).to(device)
            clips = torch.as_tensor(self.places[int(block["rows"][0][0])], device=device)
            size_px = self.config.augment.crop_size_px
            views = [
                self._view(model, frames[:, top : top + size_px, left : left + size_px], clips)
                for top, left in view_crops(self.config.augment, self.num_crops)
            ]
            values = torch.stack(views, dim=1).float().cpu().numpy()
        return {"rows": block["rows"], "values": values[None], "failures": block["failures"]}

    def _view(self, model: AdViSe, frames: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
        """uint8[F, H, W, 3] and int64[K, T] → [K, …]."""
        features = torch.cat([model.frame_features(chunk) for chunk in frames.split(FRAMES_AT_ONCE)])
        return self.clips(model, features, clips)

    @torch.inference_mode()
    def clips(self, model: AdViSe, features: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
        """Compressed frames [F, C, s, s] and int64[K, T] → [K, …]."""
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

"""Encodes the clips of a manifest's videos with the frozen model, on Ray Data or from the feature cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from advise_ray.backend.frame_encoder import encode_groups
from advise_ray.cache.compatibility import differences
from advise_ray.cache.store import FeatureStore, read_rejects
from advise_ray.config import Config
from advise_ray.errors import ConfigError, EvaluationError, VideoDecodeError
from advise_ray.evaluation.encode_clips import Clips, EncodeClips, Output
from advise_ray.model.advise import AdViSe
from advise_ray.video.frames import group_of
from advise_ray.video.manifest import Videos

log = logging.getLogger("advise_ray")


@dataclass(frozen=True)
class Encoded:
    """The model's output for one video.

    Attributes:
        row: row of the manifest.
        values: float32[K, crops, …], see `Output`; None if the video could not be decoded.
        failure: why the video could not be decoded.
    """

    row: int
    values: NDArray[np.float32] | None
    failure: str | None


@dataclass(frozen=True)
class Encoder:
    """Encodes a manifest's videos with a model."""

    config: Config
    model: AdViSe
    num_classes: int
    videos: Videos
    use_gpu: bool

    def encode(
        self,
        clips: Clips,
        output: Output,
        num_crops: int = 1,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[int, Encoded]:
        """Decode and encode clips, or read their features from `data.features`, which holds the centre crop only.

        Args:
            num_crops: number of square crops along the longer side; 1 means the centre crop.

        Raises:
            EvaluationError: too many videos cannot be decoded, or a video is missing or was returned twice.
            ConfigError: another model made the feature cache.
        """
        cached = self._cached(clips, num_crops)
        stream = self._stream(clips, output, num_crops) if cached is None else self._read(cached, clips, output)
        outcomes: dict[int, Encoded] = {}
        for outcome in stream:
            if outcome.row in outcomes or outcome.row not in clips:
                raise EvaluationError(
                    f"{self.videos[outcome.row].video_id} was encoded twice; this is a bug, please report it"
                )
            outcomes[outcome.row] = outcome
            on_progress(len(outcomes), len(clips))
        if missing := clips.keys() - outcomes.keys():
            raise EvaluationError(f"{len(missing)} video(s) have no result; this is a bug, please report it")
        failed = [outcome for outcome in outcomes.values() if outcome.failure is not None]
        if len(failed) > self.config.data.max_failed_fraction * len(clips):
            raise EvaluationError(
                f"{len(failed)} of {len(clips)} videos cannot be decoded, more than data.max_failed_fraction="
                f"{self.config.data.max_failed_fraction} allows; the first is {self.videos[failed[0].row].video_id}: "
                f"{failed[0].failure}"
            )
        return outcomes

    def _cached(self, clips: Clips, num_crops: int) -> FeatureStore | None:
        """The feature cache, if it has the features of all clips."""
        location = self.config.data.features
        if location is None:
            return None
        cached = FeatureStore(location)
        if problems := differences(cached.identity, self.config, self.model, self.model.ifm.hash_weights()):
            advice = "data.features: another model made these features; set data.features=null to decode the videos"
            raise ConfigError([*problems, advice])
        rejects = read_rejects(location)  # these count as videos that cannot be decoded
        lacking = (self.videos[row] for row in np.flatnonzero(~cached.has(self.videos)).tolist() if row in clips)
        missing = sum(video.alone().video_id not in rejects for video in lacking)
        if num_crops > 1:
            log.warning("note: the feature cache has only the centre crop; decoding the videos for %d crops", num_crops)
        elif missing:
            log.warning("note: the feature cache lacks %d of %d videos; decoding all videos", missing, len(clips))
        else:
            return cached
        return None

    def _stream(self, clips: Clips, output: Output, num_crops: int) -> Iterator[Encoded]:
        """Encode with Ray Data. Each video is one group."""
        groups, places = [], {}
        for row, wanted in clips.items():
            frames, inverse = np.unique(wanted, return_inverse=True)
            groups.append(group_of([(row, self.videos[row], frames)]))
            places[row] = inverse.reshape(wanted.shape)
        function = EncodeClips(self.config, output, num_crops, places)
        for block in encode_groups(
            lambda: groups, function, self.config, self.model, self.num_classes, everywhere=True
        ):
            failure = str(block["failures"][0])
            yield Encoded(int(block["rows"][0][0]), None if failure else np.array(block["values"][0]), failure or None)

    def _read(self, cached: FeatureStore, clips: Clips, output: Output) -> Iterator[Encoded]:
        """Encode from the feature cache in this process, because the model's temporal part is small."""
        device = torch.device("cuda" if self.use_gpu else "cpu")
        self.model.temporal.to(device)  # the image model is not needed on the device
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

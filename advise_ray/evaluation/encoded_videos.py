"""Encodes the clips of a manifest's videos with the frozen model, on Ray Data or from the feature cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from advise_ray.backend.frame_encoder import encode_groups
from advise_ray.cache.compatibility import differences
from advise_ray.cache.store import FeatureStore, read_rejects
from advise_ray.config import Config
from advise_ray.errors import ConfigError, EvaluationError, VideoDecodeError
from advise_ray.evaluation.encode_clips import ClipsOf, EncodeClips, Output, encode_video
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
    values: NDArray[Any] | None
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
        rows: NDArray[np.int64],
        clips_of: ClipsOf,
        output: Output,
        num_crops: int = 1,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Encoded]:
        """Decode and encode clips, or read their features from `data.features`, which holds the centre crop only.

        Yields each video once, in any order.

        Args:
            rows: int64[n], different rows of the manifest.
            num_crops: number of square crops along the longer side; 1 means the centre crop.

        Raises:
            EvaluationError: too many videos cannot be decoded, or a video is missing or was returned twice.
            ConfigError: another model made the feature cache.
        """
        cached = self._cached(rows, num_crops)
        if cached is None:
            stream = self._stream(rows, clips_of, output, num_crops)
        else:
            stream = self._read(cached, rows, clips_of, output)
        is_left = np.zeros(len(self.videos), bool)
        is_left[rows] = True
        num_failed, failed = 0, None
        for done, outcome in enumerate(stream, 1):
            if not is_left[outcome.row]:
                raise EvaluationError(
                    f"{self.videos[outcome.row].video_id} was encoded twice; this is a bug, please report it"
                )
            is_left[outcome.row] = False
            if outcome.failure is not None:
                num_failed, failed = num_failed + 1, failed or outcome
            yield outcome
            on_progress(done, len(rows))
        if is_left.any():
            raise EvaluationError(f"{is_left.sum()} video(s) have no result; this is a bug, please report it")
        if failed is not None and num_failed > self.config.data.max_failed_fraction * len(rows):
            raise EvaluationError(
                f"{num_failed} of {len(rows)} videos cannot be decoded, more than data.max_failed_fraction="
                f"{self.config.data.max_failed_fraction} allows; the first is {self.videos[failed.row].video_id}: "
                f"{failed.failure}"
            )

    def _cached(self, rows: NDArray[np.int64], num_crops: int) -> FeatureStore | None:
        """The feature cache, if it has the features of all videos."""
        location = self.config.data.features
        if location is None:
            return None
        cached = FeatureStore(location)
        if problems := differences(cached.identity, self.config, self.model, self.model.ifm.hash_weights()):
            advice = "data.features: another model made these features; set data.features=null to decode the videos"
            raise ConfigError([*problems, advice])
        rejects = read_rejects(location)  # these count as videos that cannot be decoded
        lacking = rows[~cached.has(self.videos)[rows]].tolist()
        missing = sum(self.videos[row].alone().video_id not in rejects for row in lacking)
        if num_crops > 1:
            log.warning("note: the feature cache has only the centre crop; decoding the videos for %d crops", num_crops)
        elif missing:
            log.warning("note: the feature cache lacks %d of %d videos; decoding all videos", missing, len(rows))
        else:
            return cached
        return None

    def _stream(self, rows: NDArray[np.int64], clips_of: ClipsOf, output: Output, num_crops: int) -> Iterator[Encoded]:
        """Encode with Ray Data."""
        groups = partial(_groups, self.videos, rows, clips_of)
        function = partial(encode_video, EncodeClips(self.config, output, num_crops), clips_of)
        for block in encode_groups(groups, function, self.config, self.model, self.num_classes, everywhere=True):
            failure = str(block["failures"][0])
            yield Encoded(int(block["rows"][0][0]), None if failure else np.array(block["values"][0]), failure or None)

    def _read(
        self, cached: FeatureStore, rows: NDArray[np.int64], clips_of: ClipsOf, output: Output
    ) -> Iterator[Encoded]:
        """Encode from the feature cache in this process, because the model's temporal part is small."""
        device = torch.device("cuda" if self.use_gpu else "cpu")
        self.model.temporal.to(device)  # the image model is not needed on the device
        model, apply = self.model.eval(), EncodeClips(self.config, output, 1)
        for row in rows.tolist():
            wanted = clips_of(self.videos[row])
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


def _groups(videos: Videos, rows: NDArray[np.int64], clips_of: ClipsOf) -> Iterator[pa.Table]:
    """Yield each video as one group, with the frames of its clips."""
    for row in rows.tolist():
        video = videos[row]
        yield group_of([(row, video, np.unique(clips_of(video)))])

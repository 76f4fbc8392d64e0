"""Reads the clips of a worker's share of a batch: decoded frames, or features from a cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advise_ray.cache.part_file import Features
from advise_ray.cache.store import FeatureStore
from advise_ray.config import Config, played_clip
from advise_ray.errors import VideoDecodeError
from advise_ray.training.batch_schedule import Batch, Schedule
from advise_ray.training.clip_block import ClipBlock
from advise_ray.video import augment_draws
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.manifest import Video
from advise_ray.video.sampling import Clip, keyed_rng, plan_clips, plan_val_clips

GREY = 128
"""Pixel value of all clips of a share, if none of them could be read."""
Arrays = dict[str, NDArray[Any]]
"""The arrays that a source reads, with the names of `ClipBlock`: `frames` and `draws`, or `features`."""


class ClipReader:
    """Reads the clips of a worker's share of a batch, from videos or from a feature cache.

    A clip that cannot be read is replaced by a valid clip of the same share with weight 0, so that batch norm sees only
    real clips.
    """

    def __init__(
        self, config: Config, videos: Sequence[Video], source: DecodedFrames | CachedFeatures | None = None
    ) -> None:
        self.config = config
        self.videos = videos
        self.source = source or open_source(config)

    def __call__(self, share: Batch) -> ClipBlock:
        train, epoch, videos, clips = share.train, share.epoch, share.videos, share.clips
        weights = np.array(share.weights, dtype=np.float32)
        read = self.source.start(len(videos))
        plans: list[Clip] = [Clip(np.empty(0, dtype=np.int64), 0)] * len(videos)
        failed = np.zeros(len(videos), dtype=bool)
        failures = {}
        found = {index: self.videos[index] for index in dict.fromkeys(videos.tolist())}
        for index, video in found.items():
            places = np.flatnonzero(videos == index)
            planned = self._plan(video, train, epoch)
            for place in places:
                plans[place] = planned[clips[place]]
            drawn = [
                keyed_rng(self.config.seed, "augment", epoch, video.video_id, int(clips[place])) if train else None
                for place in places
            ]
            frame_indices = np.stack([plans[place].frame_indices for place in places])
            try:
                self.source.read(read, VideoClips(video, places, frame_indices, drawn))
            except VideoDecodeError as error:
                failed[places] = True
                failures[video.video_id] = error.reason
        if failures:
            valid = np.flatnonzero(~failed)
            pictures = read[self.source.name]
            pictures[failed] = pictures[valid[0]] if len(valid) else self.source.blank
            weights[failed] = 0
        rate_indices = np.asarray([plan.rate_index for plan in plans], np.int64)
        ids, labels = zip(*((found[index].video_id, found[index].label) for index in videos.tolist()), strict=True)
        return ClipBlock(
            targets=rate_indices if self.config.task == "prp" else np.asarray(labels),
            weights=weights,
            **read,
            hidden=self._hidden(ids, clips, epoch) if self.config.pretext.masked_frames else None,
            share=share,
            rate_indices=rate_indices,
            frame_indices=np.stack([plan.frame_indices for plan in plans]),
            failures=failures,
        )

    def _hidden(self, video_ids: Sequence[str], clips: NDArray[np.int64], epoch: int) -> NDArray[np.bool_]:
        """bool[B, T]: the frames of each clip that the model must predict."""
        hidden = np.zeros((len(video_ids), self.config.data.clip.num_frames), dtype=bool)
        for place, (video_id, clip) in enumerate(zip(video_ids, clips.tolist(), strict=True)):
            rng = keyed_rng(self.config.seed, "hidden", epoch, video_id, clip)
            hidden[place, rng.permutation(hidden.shape[1])[: self.config.pretext.masked_frames]] = True
        return hidden

    def _plan(self, video: Video, train: bool, epoch: int) -> list[Clip]:
        clip, num_frames = played_clip(self.config), len(video.frames)
        if train:
            rng = keyed_rng(self.config.seed, "clip", epoch, video.video_id)
            clips = plan_clips(num_frames, clip, rng, video.fps)
        else:
            rng = keyed_rng(self.config.seed, "val", video.video_id)  # the same clips after every epoch
            clips = plan_val_clips(num_frames, clip, self.config.data.val_clips_per_rate, rng, video.fps)
        return [
            Clip(self.source.snap(video, planned.frame_indices + video.frames.start), planned.rate_index)
            for planned in clips
        ]


@dataclass(frozen=True)
class VideoClips:
    """The clips of one video in a worker's share of a batch.

    Attributes:
        places: int64[K], positions of the clips in the share.
        frame_indices: int64[K, T], frames in the video file.
        drawn: K random generators for the augmentation; None for the centre crop without augmentation.
    """

    video: Video
    places: NDArray[np.int64]
    frame_indices: NDArray[np.int64]
    drawn: list[np.random.Generator | None]


class DecodedFrames:
    """A source that decodes clips and draws their augmentation.

    `ahead` is the number of shares that are read while the worker uses another one. The decoder writes to two buffers
    in turn, so a share stays valid only until the second share after it is read.
    """

    name, blank, ahead = "frames", GREY, 1

    def __init__(self, config: Config) -> None:
        self.config = config
        self.decoder = DecodeProcess(config.data.decode_timeout_s)

    def start(self, num_clips: int) -> Arrays:
        """Allocate the arrays for the clips of a share."""
        size = self.config.augment
        shape = (num_clips, self.config.data.clip.num_frames, size.resize_height_px, size.resize_width_px, 3)
        return {"frames": self.decoder.frames(shape), "draws": np.tile(augment_draws.centre_crop(size), (num_clips, 1))}

    def snap(self, _video: Video, frame_indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the frame numbers unchanged, because any frame can be decoded."""
        return frame_indices

    def read(self, into: Arrays, clips: VideoClips) -> None:
        """Read the clips of a video into their places.

        Raises:
            VideoDecodeError: the video cannot be read. The places may be partly overwritten.
        """
        video = clips.video
        for place, rng in zip(clips.places, clips.drawn, strict=True):
            if rng is not None:
                into["draws"][place] = augment_draws.draw(self.config.augment, rng)
        video.refuse_above(self.config.data.max_pixels)
        self.decoder.decode_into(into["frames"], clips.places, video.path, clips.frame_indices, **video.decoding)


class CachedFeatures:
    """A source that reads clips from a feature cache.

    In training it draws one of the cached views at random; otherwise it takes the first view, the centre crop.

    `pinned`: read into page-locked memory, from which the copy to a GPU is faster.
    """

    name, blank, ahead = "features", 0, 3

    def __init__(self, config: Config, location: str, *, pinned: bool = False) -> None:
        self.store = FeatureStore(location)
        self.num_frames = config.data.clip.num_frames
        self.pinned = pinned

    def start(self, num_clips: int) -> Arrays:
        """Allocate the arrays for the clips of a share."""
        import torch  # imported here, because decode actors do not need it

        shape = (num_clips, self.num_frames, *self.store.identity.frame_shape)
        return {"features": torch.empty(shape, dtype=torch.float16, pin_memory=self.pinned).numpy()}

    def snap(self, video: Video, frame_indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Replace each frame number by that of a cached frame, see `FeatureStore.snap`."""
        return self.store.snap(video, frame_indices)

    def read(self, into: Arrays, clips: VideoClips) -> None:
        """See `DecodedFrames.read`."""
        views = [0 if rng is None else int(rng.integers(self.store.identity.views)) for rng in clips.drawn]
        out: list[Features] = [into["features"][place] for place in clips.places]
        self.store.read_into(out, clips.video, clips.frame_indices, views)


def open_source(config: Config, *, pinned: bool = False) -> DecodedFrames | CachedFeatures:
    """The source of a configuration: decoded frames or cached features. `pinned`: see `CachedFeatures`."""
    location = config.data.features
    return DecodedFrames(config) if location is None else CachedFeatures(config, location, pinned=pinned)


def read_here(
    config: Config,
    schedule: Schedule,
    videos: Sequence[Video],
    start_step: int,
    rank: int,
    num_workers: int,
    *,
    pinned: bool,
    validation_first: bool = False,
) -> Generator[ClipBlock]:
    """Yield a worker's blocks (see `Schedule.batches`), read ahead by a thread of the worker's process.

    Every run reads a local feature cache in this way: the worker maps its files into memory, and no data is copied
    between processes.
    """
    source = open_source(config, pinned=pinned)
    reader = ClipReader(config, videos, source)
    batches = schedule.batches(start_step, validation_first=validation_first)
    thread, begun = ThreadPoolExecutor(1, thread_name_prefix="clips"), deque[Future[ClipBlock]]()
    try:
        for batch in batches:
            begun.append(thread.submit(reader, batch.share(rank, num_workers)))
            if len(begun) > source.ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)
        if isinstance(source, DecodedFrames):
            source.decoder.close()


def clip_bytes(config: Config) -> int:
    """Bytes of one decoded clip, as sent to a worker."""
    return config.data.clip.num_frames * config.augment.resize_height_px * config.augment.resize_width_px * 3

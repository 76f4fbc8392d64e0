"""What a decode actor does where every frame is wanted once, not clip by clip. Light to import: it computes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from advise_ray.config import Config
from advise_ray.errors import VideoDecodeError
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.manifest import Video

Wanted = tuple[int, Video, NDArray[np.int64]]
"""A row of the manifest, and int64[F], the frames wanted of it."""


def group_of(wanted: list[Wanted]) -> pa.Table:
    """The input of `DecodeFrames`: one row, since a row of a stream is a block (`generator_source.row_by_row`)."""
    videos = [{**vars(video), "row": row, "wanted": frames.tolist()} for row, video, frames in wanted]
    return pa.Table.from_pylist([{"videos": videos}])


class DecodeFrames:
    """Decode the wanted frames of a group of k videos.

    Out come, with a leading axis of 1: `rows` int64[1, k], `counts` int64[1, k], the frames of each, `frames`
    uint8[1, N, H, W, 3] and `indices` int64[1, N], those of all videos after each other, and `failures`, a line for
    each video, empty where it was decoded. The frames of one that failed are undefined.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.decoder = DecodeProcess(config.data.decode_timeout_s)

    def __call__(self, group: pa.Table) -> dict[str, NDArray[Any]]:
        rows: list[int] = []
        counts: list[int] = []
        failures: list[str] = []
        size = self.config.augment
        (videos,) = group.column("videos").to_pylist()
        wanted = [np.asarray(video.pop("wanted")) for video in videos]
        total = sum(map(len, wanted))
        frames = self.decoder.frames((total, 1, size.resize_height_px, size.resize_width_px, 3))
        for video, indices in zip(videos, wanted, strict=True):
            rows.append(video.pop("row"))
            places = np.arange(len(indices)) + sum(counts)
            counts.append(len(indices))
            failures.append(self._decode(Video(**video), indices, frames, places))
        return {
            "rows": np.asarray([rows]),
            "counts": np.asarray([counts]),
            "indices": np.concatenate(wanted)[None],
            "frames": frames.reshape(1, total, *frames.shape[2:]),
            "failures": np.asarray(["\n".join(failures)]),
        }

    def _decode(
        self, video: Video, indices: NDArray[np.int64], frames: NDArray[np.uint8], places: NDArray[np.int64]
    ) -> str:
        try:
            video.refuse_above(self.config.data.max_pixels)
            self.decoder.decode_into(frames, places, video.path, indices[:, None], **video.decoding)
        except VideoDecodeError as error:
            return " ".join(error.reason.split())
        return ""

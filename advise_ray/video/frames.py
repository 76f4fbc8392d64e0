"""Decodes each wanted frame of a video once, for jobs that do not need single clips. Importing it is fast."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from advise_ray.config import Config
from advise_ray.errors import VideoDecodeError
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.manifest import Video

Wanted = tuple[int, Video, NDArray[np.int64]]
"""Row number in the manifest, the video, and the wanted frames, int64[F]."""


def group_of(wanted: list[Wanted]) -> pa.Table:
    """Return the input of `DecodeFrames`: one row, because each row becomes a block (`generator_source.row_by_row`)."""
    videos = [{"row": row, "video": json.dumps(vars(video)), "wanted": frames} for row, video, frames in wanted]
    return pa.Table.from_pylist([{"videos": videos}])


def videos_of(block: dict[str, NDArray[Any]]) -> list[Video]:
    """Return the k videos of a block of `DecodeFrames`."""
    return [Video(**json.loads(text)) for text in block["videos"][0]]


class DecodeFrames:
    """Decodes the wanted frames of a group of k videos.

    The output is a dictionary whose arrays have a leading axis of size 1:

    - `rows` int64[1, k]: row numbers of the videos.
    - `videos`: the videos as texts, see `videos_of`.
    - `counts` int64[1, k]: number of frames of each video.
    - `frames` uint8[1, N, H, W, 3] and `indices` int64[1, N]: the frames of all videos, concatenated.
    - `failures`: a text with one line for each video, which is empty if the video was decoded. The frames of a video
      that failed are undefined.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.decoder = DecodeProcess(config.data.decode_timeout_s)

    def __call__(self, group: pa.Table) -> dict[str, NDArray[Any]]:
        rows: list[int] = []
        counts: list[int] = []
        failures: list[str] = []
        size = self.config.augment
        (held,) = group.column("videos").to_pylist()
        wanted = [np.asarray(video["wanted"]) for video in held]
        total = sum(map(len, wanted))
        frames = self.decoder.frames((total, 1, size.resize_height_px, size.resize_width_px, 3))
        for video, indices in zip(held, wanted, strict=True):
            rows.append(video["row"])
            places = np.arange(len(indices)) + sum(counts)
            counts.append(len(indices))
            failures.append(self._decode(Video(**json.loads(video["video"])), indices, frames, places))
        return {
            "rows": np.asarray([rows]),
            "videos": np.asarray([[video["video"] for video in held]]),
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

"""What a decode actor of an evaluation does. Light to import: it computes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from advise_ray.config import Config
from advise_ray.errors import VideoDecodeError
from advise_ray.video.child import DecodeProcess
from advise_ray.video.manifest import Video


class DecodeFrames:
    """Out come, of one video, `frames` uint8[1, F, H, W, 3], each once, and `clips` int64[1, K, T], places in it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.decoder = DecodeProcess(config.data.decode_timeout_s)

    def __call__(self, block: pa.Table) -> dict[str, NDArray[Any]]:
        (row,) = block.to_pylist()
        number, clips, size = row.pop("row"), np.asarray(row.pop("clips")), self.config.augment
        video = Video(**row)
        wanted, places = np.unique(clips, return_inverse=True)
        failure = ""
        try:
            video.refuse_above(self.config.data.max_pixels)
            frames = self.decoder.decode(
                video.path,
                wanted,
                height_px=size.resize_height_px,
                width_px=size.resize_width_px,
                **video.decoding,
            )
        except VideoDecodeError as error:
            failure, frames = error.reason, np.zeros((1, 1, 1, 3), dtype=np.uint8)
        return {
            "row": np.asarray([number]),
            "frames": frames[None],
            "clips": places.reshape(1, -1, self.config.data.clip.num_frames),
            "failure": np.asarray([failure]),
        }

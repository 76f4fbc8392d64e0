"""Encodes decoded frames and writes them as a part. Runs in the process of the model: the driver or an actor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from advise_ray.cache.identity import Identity, view_draw
from advise_ray.cache.part_file import Features, Piece, write_part
from advise_ray.config import Config
from advise_ray.model import augment
from advise_ray.model.advise import AdViSe
from advise_ray.model.transfer import to_device
from advise_ray.video.frames import videos_of
from advise_ray.video.manifest import Video

FRAMES_AT_ONCE = 512
"""Frames that are augmented and encoded at once, of one or several videos."""
Block = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class EncodePart:
    """Encodes the decoded frames of a group (see `DecodeFrames`) and writes the features as a part.

    The output block has `part` (the part's name, empty if no video of the group could be decoded), `rows` as in the
    input, `failures` (of decoding, and of features beyond float16) and `error` (why the part could not be written).
    """

    config: Config
    identity: Identity
    location: str

    @torch.inference_mode()
    def __call__(self, model: AdViSe, device: torch.device, block: Block) -> Block:
        videos, counts = videos_of(block), block["counts"][0]
        failures = str(block["failures"][0]).split("\n")
        ends = np.cumsum(counts)
        spans = [slice(int(end - count), int(end)) for end, count in zip(ends, counts, strict=True)]
        features = self._features(model, device, np.array(block["frames"][0]), videos, spans)
        pieces = []
        for number, (video, span) in enumerate(zip(videos, spans, strict=True)):
            if failures[number]:
                continue
            if np.isfinite(features[:, span]).all():
                pieces.append(Piece(video, block["indices"][0][span], features[:, span]))
            else:
                failures[number] = "its features exceed the range of float16"
        part, error = "", ""
        try:
            part = write_part(self.location, pieces) if pieces else ""
        except OSError as problem:
            error = str(problem.strerror or problem)
        return {
            "part": np.asarray([part]),
            "rows": block["rows"],
            "failures": np.asarray(["\n".join(failures)]),
            "error": np.asarray([error]),
        }

    def _features(
        self,
        model: AdViSe,
        device: torch.device,
        frames: NDArray[np.uint8],
        videos: list[Video],
        spans: list[slice],
    ) -> Features:
        """Encode frames: uint8[N, H, W, 3] → float16[views, N, h, w, C]."""
        size_px = self.config.augment.crop_size_px
        out = np.empty((self.identity.views, len(frames), *self.identity.frame_shape), dtype=np.float16)
        lengths = [span.stop - span.start for span in spans]
        for view in range(self.identity.views):
            by_video = [view_draw(self.config, video.video_id, view) for video in videos]
            draws = np.repeat(np.stack(by_video), lengths, axis=0)
            for start in range(0, len(frames), FRAMES_AT_ONCE):
                chunk = slice(start, start + FRAMES_AT_ONCE)
                clips = to_device(frames[chunk], device)[:, None]  # of one frame each
                images = augment.apply(clips, draws[chunk], size_px, model.ifm)[:, 0]
                out[view, chunk] = model.frame_features(images).permute(0, 2, 3, 1).cpu().numpy()
        return out

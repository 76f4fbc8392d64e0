"""Encodes decoded videos clip by clip with a trained model."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from advise_ray.backend.row_stream import Block
from advise_ray.config import Config, played_clip
from advise_ray.deploy.embeddings_file import SCHEMA
from advise_ray.model.advise import AdViSe
from advise_ray.model.precision import autocast
from advise_ray.model.transfer import to_device
from advise_ray.storage.parquet import write_table
from advise_ray.video.augment_draws import centre
from advise_ray.video.frames import Wanted
from advise_ray.video.manifest import Video
from advise_ray.video.sampling import span_frames, stride_frames

CLIPS_AT_ONCE = 16
"""Batch size of the temporal module in clips, across videos."""
GROUP_FRAMES = 512
"""Number of decoded frames in one group of the stream and one part file. It limits the memory use."""


class ClipRow(TypedDict, total=False):
    """A row of the file, see `embeddings_file.SCHEMA`. Columns that are left out are null."""

    video_id: str
    clip_start_s: float
    clip_end_s: float
    embedding: NDArray[np.float32]
    top_classes: list[str]
    top_probabilities: NDArray[np.float32]
    error: str
    version: str | None


@dataclass(frozen=True)
class EmbedClips:
    """Encodes decoded frames (see `DecodeFrames`), writes their clips' rows as a part file, and returns its name."""

    config: Config
    classes: list[str]
    top_k: int
    videos: list[Video]
    versions: list[str]
    """The version of each video, see `embeddings_file.version_of`."""
    parts: Path

    @torch.inference_mode()
    def __call__(self, model: AdViSe, device: torch.device, block: Block) -> Block:
        num_frames = self.config.data.clip.num_frames
        rows, counts, indices = block["rows"][0], block["counts"][0], block["indices"][0]
        failures = str(block["failures"][0]).split("\n")
        good = np.repeat([not failure for failure in failures], counts)
        embeddings, probabilities = self._apply(model, device, np.asarray(block["frames"][0])[good])
        table: list[ClipRow] = []
        done = 0
        starts = np.cumsum([0, *counts])
        for row, failure, start, count in zip(rows, failures, starts[:-1], counts, strict=True):
            video = self.videos[row]
            if failure:
                table.append({"video_id": video.video_id, "error": failure})
                continue
            for clip in indices[start : start + count].reshape(-1, num_frames):
                best = np.argsort(-probabilities[done])[: self.top_k]
                table.append(
                    {
                        "video_id": video.video_id,
                        "clip_start_s": float(clip[0] / video.fps),
                        "clip_end_s": float((clip[-1] + 1) / video.fps),
                        "embedding": embeddings[done],
                        "top_classes": [self.classes[index] for index in best],
                        "top_probabilities": probabilities[done][best],
                        "version": self.versions[row],
                    }
                )
                done += 1
        name = part_name([(self.videos[row].video_id, self.versions[row]) for row in rows], indices)
        write_part(self.parts / name, table)
        return {"part": np.asarray([name]), "videos": np.asarray([len(rows)])}

    def _apply(
        self, model: AdViSe, device: torch.device, frames: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode K clips: uint8[K·T, H, W, 3] → embeddings float32[K, E], probabilities float32[K, classes]."""
        if not len(frames):
            return np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
        features = model.frame_features(to_device(centre(frames, self.config.augment), device))
        embeddings, probabilities = [], []
        for clips in features.unflatten(0, (-1, self.config.data.clip.num_frames)).split(CLIPS_AT_ONCE):
            with autocast(self.config.train.precision, device.type):
                embedding = model.temporal.embed(model.sfu.arrange(clips))
                logits = model.temporal.classify(embedding)
            embeddings.append(embedding.float())
            probabilities.append(logits.float().softmax(1))
        return torch.cat(embeddings).cpu().numpy(), torch.cat(probabilities).cpu().numpy()


def clips_of(video: Video, config: Config, step_s: float | None) -> NDArray[np.int64]:
    """Frame numbers int64[K, T] of a video's clips, from its first frame on.

    A video that is shorter than a clip gives one clip that repeats its last frame.
    """
    clip = played_clip(config)
    stride = max(1.0, stride_frames(clip, video.fps))
    offsets = np.floor(np.arange(clip.num_frames) * stride + 0.5).astype(np.int64)
    length = len(video.frames)
    span = span_frames(clip.num_frames, stride)
    step = span if step_s is None else max(1, round(step_s * video.fps))
    starts = np.arange(0, max(length - span, 0) + 1, step)
    return video.frames[0] + np.minimum(starts[:, None] + offsets, length - 1)


def groups_of(every: list[Video], config: Config, step_s: float | None) -> Iterator[list[Wanted]]:
    """Group the clips of all videos into groups of up to GROUP_FRAMES frames.

    A long video is split over several groups; short videos share one.
    """
    group: list[Wanted] = []
    held = 0
    per_portion = max(1, GROUP_FRAMES // config.data.clip.num_frames)
    for row, video in enumerate(every):
        clips = clips_of(video, config, step_s)
        for portion in np.array_split(clips, math.ceil(len(clips) / per_portion)):
            if held + portion.size > GROUP_FRAMES and group:
                yield group
                group, held = [], 0
            group.append((row, video, portion.ravel()))
            held += portion.size
    if group:
        yield group


def part_name(versions: list[tuple[str, str]], frames: NDArray[np.int64]) -> str:
    """Name of the part file of a group. The same videos, versions and frames give the same name."""
    digest = hashlib.blake2b(json.dumps([versions, frames.tolist()]).encode(), digest_size=16)
    return f"{digest.hexdigest()}.parquet"


def write_part(path: Path, rows: list[ClipRow]) -> None:
    """Write a part file as `write_whole` does."""
    write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)

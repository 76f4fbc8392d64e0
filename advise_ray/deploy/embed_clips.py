"""Encodes decoded videos clip by clip with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from advise_ray.backend.row_stream import Block
from advise_ray.config import Config
from advise_ray.deploy.embed_groups import part_name, version
from advise_ray.deploy.embeddings_file import SCHEMA
from advise_ray.model.advise import AdViSe
from advise_ray.model.precision import autocast
from advise_ray.model.transfer import to_device
from advise_ray.storage.parquet import write_table
from advise_ray.video.augment_draws import centre
from advise_ray.video.frames import videos_of

CLIPS_AT_ONCE = 16
"""Batch size of the temporal module in clips, across videos."""


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
    parts: Path

    @torch.inference_mode()
    def __call__(self, model: AdViSe, device: torch.device, block: Block) -> Block:
        num_frames = self.config.data.clip.num_frames
        videos, counts, indices = videos_of(block), block["counts"][0], block["indices"][0]
        failures = str(block["failures"][0]).split("\n")
        good = np.repeat([not failure for failure in failures], counts)
        embeddings, probabilities = self._apply(model, device, np.asarray(block["frames"][0])[good])
        table: list[ClipRow] = []
        done = 0
        starts = np.cumsum([0, *counts])
        for video, failure, start, count in zip(videos, failures, starts[:-1], counts, strict=True):
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
                        "version": version(video),
                    }
                )
                done += 1
        name = part_name(videos, indices)
        write_part(self.parts / name, table)
        return {"part": np.asarray([name]), "videos": np.asarray([len(videos)])}

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


def write_part(path: Path, rows: list[ClipRow]) -> None:
    """Write a part file as `write_whole` does."""
    write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)

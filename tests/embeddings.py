"""For tests: embeddings files with given embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from advise_ray.deploy.embeddings_file import MADE_BY, MADE_FROM, SCHEMA

CLIP_S = 2.0
"""Clips are so long; each starts where the previous one of its video ends."""


def write_embeddings(
    path: Path,
    videos: dict[str, Any],
    failed: dict[str, str] | None = None,
    sources: dict[str, str] | None = None,
    classes: dict[str, str] | None = None,
) -> Path:
    """Write the file that `embed` would write for these videos: video id → embeddings of its clips."""
    rows: list[dict[str, Any]] = [
        {
            "video_id": video_id,
            "clip_start_s": CLIP_S * number,
            "clip_end_s": CLIP_S * (number + 1),
            "embedding": [float(value) for value in vector],
            "top_classes": [(classes or {}).get(video_id, "walk")],
            "top_probabilities": [1.0],
            "version": "1 bytes 1 ns",
        }
        for video_id, vectors in videos.items()
        for number, vector in enumerate(vectors)
    ]
    rows += [{"video_id": video_id, "error": reason} for video_id, reason in (failed or {}).items()]
    metadata = {MADE_BY: json.dumps({"model": "abc", "step_s": None, "top_k": 1})}
    if sources is not None:
        metadata[MADE_FROM] = json.dumps(sources)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA).replace_schema_metadata(metadata), path)
    return path

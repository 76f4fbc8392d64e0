"""The Parquet file that `embed` writes: its columns, what made it, and which videos it has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TypedDict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from advise_ray.config import INFERENCE, flatten
from advise_ray.config import load as load_config
from advise_ray.deploy.embed_groups import version_of
from advise_ray.errors import UsageError
from advise_ray.storage.atomic import exists, write_whole
from advise_ray.storage.parquet import read_table

SCHEMA = pa.schema(
    {
        "video_id": pa.string(),
        "clip_start_s": pa.float64(),
        "clip_end_s": pa.float64(),
        "embedding": pa.list_(pa.float32()),
        "top_classes": pa.list_(pa.string()),
        "top_probabilities": pa.list_(pa.float32()),
        "error": pa.string(),
        "version": pa.string(),
    }
)
"""Columns of the file. It has a row for each clip, and one row for each video that failed.

- `error`: why the video failed; then only `video_id` and `version` are set besides.
- `version`: size and time of the video's file and the frames of its label, see `version_of`. Null: the next job tries
  again."""
MADE_BY = b"advise_ray.embed"
"""Key of the `Settings` in the file's metadata."""
MADE_FROM = b"advise_ray.embed.from"
"""Key of the `Sources` in the file's metadata. Files of older versions lack it."""
WITH_FEW_VALUES = ["video_id", "top_classes.list.element", "error", "version"]
"""Columns that are written with a dictionary. A dictionary of floats would only make the file larger."""
SHAPING = ("task", "data.clip.", "augment.", "model.kind", "model.ifm.precision", "model.ifm.layer", "model.sfu.")
"""Keys of the configuration that change the embeddings of the same weights."""


class Settings(TypedDict):
    """What made the embeddings of a file. All its rows have the same."""

    model: str
    """Hash of the model's weights and of the settings with which it sees a clip."""
    step_s: float | None
    """Seconds from the start of one clip to the start of the next; None: each starts where the previous one ends."""
    top_k: int
    """Number of classes for each clip."""


class Sources(TypedDict):
    """Where the model and the videos were when rows were last written. Either may have moved since."""

    run: str
    """Path of the checkpoint, or MLflow URI of the model."""
    videos: str
    """Path or URL of the folder, the video or the manifest."""


class Counts(TypedDict):
    """The content of a file."""

    videos: int
    clips: int
    failed_videos: int


def model_hash(path: Path) -> str:
    """Identify the model of a checkpoint without building it."""
    from advise_ray.training import checkpoint  # imports torch, which most searches do not need

    config = flatten(load_config(path / "config.yaml", INFERENCE))
    shaping = {key: value for key, value in config.items() if key.startswith(SHAPING)}
    state = checkpoint.read_state(path)
    digest = hashlib.sha256((path / "model.safetensors").read_bytes())
    digest.update(json.dumps([state.ifm_sha256, state.classes, shaping], default=str).encode())
    return digest.hexdigest()


def versions_of(videos: pa.Table) -> pa.ChunkedArray:
    """Return `version_of` each video of a manifest."""
    return pa.chunked_array(map(_versions_of, videos.to_batches()), pa.string())


def _versions_of(videos: pa.RecordBatch) -> pa.Array:
    held = videos.select(["bytes", "modified_ns", "start_frame", "end_frame"])
    if held.column("start_frame").null_count + held.column("end_frame").null_count < 2 * len(held):
        return pa.array([version_of(*row.values()) for row in held.to_pylist()], pa.string())
    num_bytes, modified_ns = (column.cast(pa.string()).fill_null("None") for column in held.columns[:2])
    return pc.binary_join_element_wise(num_bytes, " bytes ", modified_ns, " ns", "")


def held_versions(out: Path, settings: Settings) -> pa.Table:
    """Return the columns `video_id` and `version` of a file. Empty if it does not exist.

    Raises:
        UsageError: `embed` did not write the file, or with another model or other settings.
    """
    if not out.exists():
        return SCHEMA.empty_table().select(["video_id", "version"])
    try:
        schema = pq.read_schema(out)
    except (pa.ArrowInvalid, OSError):
        schema = pa.schema([])
    made_by = (schema.metadata or {}).get(MADE_BY)
    if made_by is None or schema.names != SCHEMA.names:
        raise UsageError(f"--out: {out} exists, and is not a file that this `advise-ray embed` adds to; {INSTEAD}")
    refuse_other(json.loads(made_by), settings, out)
    return pq.read_table(out, columns=["video_id", "version"])


INSTEAD = "choose another file name, or remove it"


def refuse_other(theirs: Settings, ours: Settings, path: Path) -> None:
    """Raise UsageError if embeddings were made with another model or other settings."""
    differing = [name for name, value in ours.items() if theirs.get(name) != value]
    if differing:
        raise UsageError(f"--out: {path} was made with another {', '.join(differing)}; {INSTEAD}")


def write(out: Path, settings: Settings, sources: Sources, without: pa.ChunkedArray, parts: Sequence[Path]) -> None:
    """Write the rows of `parts` after those that `out` has, atomically.

    Args:
        without: ids of videos whose old rows are left out.
    """
    schema = SCHEMA.with_metadata({MADE_BY: json.dumps(settings), MADE_FROM: json.dumps(sources)})

    def content(file: BinaryIO) -> None:
        with pq.ParquetWriter(file, schema, use_dictionary=WITH_FEW_VALUES) as writer:
            if exists(out):
                left_out = without.combine_chunks()
                for batch in pq.ParquetFile(out, pre_buffer=False).iter_batches():
                    writer.write_batch(batch.filter(pc.invert(pc.is_in(batch.column("video_id"), left_out))))
            for part in parts:
                writer.write_table(read_table(part).cast(schema))

    write_whole(out, content)


def first_failure(out: Path) -> tuple[str, str] | None:
    """The id of a video without embeddings, and the reason. None if all have some."""
    rows = pq.read_table(out, columns=["video_id", "error"], filters=pc.field("error").is_valid()).slice(0, 1)
    return next(((row["video_id"], row["error"]) for row in rows.to_pylist()), None)


def count(out: Path) -> Counts:
    """Count the videos and clips of a file."""
    table = pq.read_table(out, columns=["video_id", "error"])
    failures = table.filter(table.column("error").is_valid())
    return {
        "videos": pc.count_distinct(table.column("video_id")).as_py(),
        "clips": table.num_rows - failures.num_rows,
        "failed_videos": pc.count_distinct(failures.column("video_id")).as_py(),
    }

"""`check`: decode every video of a manifest again and report the videos that no longer match the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from advise_ray.dataset.probing import TIMEOUT_S, Probed, probe_all, reject
from advise_ray.dataset.summary import CheckSummary
from advise_ray.errors import UsageError
from advise_ray.storage.atomic import refuse_unwritable
from advise_ray.storage.mapped import mapped
from advise_ray.storage.parquet import write_table
from advise_ray.video.manifest import ManifestRow, read_manifest
from advise_ray.video.probe import LIMITS, Limits
from advise_ray.video.rejects import Reject, write_rejects

FACTS = ("num_frames", "width", "height", "decoder", "stream_index", "rotation_deg")
"""Columns that training relies on."""
VIDEOS_AT_ONCE = 1 << 14


def check(
    manifest: Path,
    rejects: Path,
    *,
    drop: Path | None = None,
    timeout_s: float = TIMEOUT_S,
    limits: Limits = LIMITS,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CheckSummary:
    """Decode every video on Ray Data and write the videos that fail or have changed, each with its reason.

    Args:
        rejects: Parquet file for the rejected videos. It is written even if no video is rejected.
        drop: path of a new manifest without the rejected videos.

    Raises:
        UsageError: two of the files are the same, or no video is left for `drop`.
    """
    written = [rejects, *([drop] if drop is not None else [])]
    if len({path.resolve() for path in (manifest, *written)}) <= len(written):
        raise UsageError("--out, --drop: the manifest, the rejects and the clean manifest must be different files")
    table = read_manifest(manifest)
    for path in written:
        refuse_unwritable(path, "--out, --drop")
        path.parent.mkdir(parents=True, exist_ok=True)
    bad: list[Reject] = []
    for done, (row, probed) in enumerate(_probed(table, timeout_s, limits), 1):
        on_progress(done, len(table))
        reason = (None if _still_readable(row, probed) else probed["reason"]) or _what_changed(row, probed)
        if reason:
            bad.append(reject(probed, reason, again=True))
    bad.sort(key=lambda row: row["video_id"])
    write_rejects(bad, rejects)
    if drop is not None:
        if len(bad) == len(table):
            raise UsageError(f"--drop: no video is left because all {len(table)} videos fail; see {rejects}")
        bad_ids = pa.array([row["video_id"] for row in bad], pa.string())
        kept = (batch.filter(pc.invert(pc.is_in(batch.column("video_id"), bad_ids))) for batch in table.to_batches())
        write_table(mapped(table.schema, kept), drop)
    return {
        "videos": len(table),
        "rejected": len(bad),
        "rejects": str(rejects),
        "manifest": str(drop) if drop is not None else None,
        "first_problems": {row["video_id"]: row["reason"] for row in bad[:5]},
    }


def _probed(table: pa.Table, timeout_s: float, limits: Limits) -> Iterator[tuple[ManifestRow, Probed]]:
    """Yield each row of the manifest with the state of its file. Only the rows of VIDEOS_AT_ONCE are objects."""
    for start in range(0, len(table), VIDEOS_AT_ONCE):
        rows: dict[str, ManifestRow] = {row["video_id"]: row for row in table.slice(start, VIDEOS_AT_ONCE).to_pylist()}
        for probed in probe_all(list(rows.values()), timeout_s, limits):
            yield rows[probed["video_id"]], probed


def _still_readable(row: ManifestRow, probed: Probed) -> bool:
    """Whether the part of a damaged video that the manifest keeps can still be read."""
    if row["damage"] is None or probed["readable_end"] is None:
        return False
    kept_end = row["num_frames"] if row["end_frame"] is None else row["end_frame"]
    return (probed["readable_start"] or 0) <= (row["start_frame"] or 0) and kept_end <= probed["readable_end"]


def _what_changed(row: ManifestRow, probed: Probed) -> str | None:
    before, now = dict(row), dict(probed)
    changed = [f"{name} {before[name]} → {now[name]}" for name in FACTS if before[name] != now[name]]
    return f"changed since it was indexed: {', '.join(changed)}" if changed else None

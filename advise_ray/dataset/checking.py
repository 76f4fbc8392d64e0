"""`check`: decode every video of a manifest again and report the videos that no longer match the manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from advise_ray.dataset.probing import TIMEOUT_S, probe_all
from advise_ray.errors import UsageError
from advise_ray.storage.atomic import refuse_unwritable
from advise_ray.video.manifest import read_manifest, write_manifest, write_rejects
from advise_ray.video.probe import LIMITS, Limits

FACTS = ("num_frames", "width", "height", "decoder", "stream_index", "rotation_deg")
"""Columns that training relies on."""


def check(
    manifest: Path,
    rejects: Path,
    *,
    drop: Path | None = None,
    timeout_s: float = TIMEOUT_S,
    limits: Limits = LIMITS,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Decode every video on Ray Data and write the videos that fail or have changed, each with its reason.

    Args:
        rejects: Parquet file for the rejected videos. It is written even if no video is rejected.
        drop: path of a new manifest without the rejected videos.

    Raises:
        UsageError: two of the files are the same, or no video is left for `drop`.

    Returns:
        The counts `videos` and `rejected`, the paths, and up to five problems.
    """
    written = [rejects, *([drop] if drop is not None else [])]
    if len({path.resolve() for path in (manifest, *written)}) <= len(written):
        raise UsageError("--out, --drop: the manifest, the rejects and the clean manifest must be different files")
    table = read_manifest(manifest)
    for path in written:
        refuse_unwritable(path, "--out, --drop")
    rows = {row["video_id"]: row for row in table.to_pylist()}
    bad = []
    for done, probed in enumerate(probe_all(list(rows.values()), timeout_s, limits), 1):
        on_progress(done, len(rows))
        row = rows[probed["video_id"]]
        reason = (None if _still_readable(row, probed) else probed["reason"]) or _what_changed(row, probed)
        if reason:
            bad.append(
                {**probed, "reason": reason, "bytes": None, "modified_ns": None}
            )  # so that `index` reads it again
    bad.sort(key=lambda row: str(row["video_id"]))
    write_rejects(bad, rejects)
    if drop is not None:
        bad_ids = {row["video_id"] for row in bad}
        kept = [row for row in rows.values() if row["video_id"] not in bad_ids]
        if not kept:
            raise UsageError(f"--drop: no video is left because all {len(rows)} videos fail; see {rejects}")
        write_manifest(kept, drop)
    return {
        "videos": len(rows),
        "rejected": len(bad),
        "rejects": str(rejects),
        "manifest": str(drop) if drop is not None else None,
        "first_problems": {str(row["video_id"]): row["reason"] for row in bad[:5]},
    }


def _still_readable(row: dict[str, Any], probed: dict[str, Any]) -> bool:
    """Whether the part of a damaged video that the manifest keeps can still be read."""
    if row["damage"] is None or probed["readable_end"] is None:
        return False
    return bool(probed["readable_start"] <= row["start_frame"] and row["end_frame"] <= probed["readable_end"])


def _what_changed(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    changed = [f"{name} {before[name]} → {now[name]}" for name in FACTS if before[name] != now[name]]
    return f"changed since it was indexed: {', '.join(changed)}" if changed else None

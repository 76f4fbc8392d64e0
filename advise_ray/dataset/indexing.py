"""`index`: writes a manifest from a data set's lists and files. It reads only files that have changed."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from advise_ray.dataset.probing import PROBED, TIMEOUT_S, Row, probe_all
from advise_ray.dataset.summary import describe
from advise_ray.errors import UsageError
from advise_ray.storage import remote
from advise_ray.storage.atomic import refuse_unwritable
from advise_ray.storage.transports import StoredFile
from advise_ray.video.annotations import ListedVideo, Listing, read_folder, read_ucf101, root_and_file
from advise_ray.video.manifest import read_manifest, write_manifest, write_rejects
from advise_ray.video.probe import FEWEST_READABLE, LIMITS, Limits
from advise_ray.video.synth import synthesize

SYNTHESIZED_VIDEOS = 96
OnProgress = Callable[[int, int], None]
log = logging.getLogger("advise_ray")


def _ignore(_done: int, _total: int) -> None:
    pass


def index(
    listing: Listing,
    root: str | Path,
    out: Path,
    *,
    timeout_s: float = TIMEOUT_S,
    limits: Limits = LIMITS,
    keep_damaged: bool = False,
    on_progress: OnProgress = _ignore,
) -> dict[str, Any]:
    """Probe the listed videos under `root` on all CPUs and write the manifest.

    `<out>.rejects.parquet` gets the videos that cannot be read, the listed videos without a file, and the list's
    invalid lines, each with its reason. A file is not read again if an existing manifest has it with the same size and
    modification time, or if an interrupted run has already read it.

    Args:
        keep_damaged: keep the longest readable part of each damaged video.
        on_progress: called with (videos probed, videos to probe).

    Returns:
        Counts, and statistics of the videos (see `summary.describe`).

    Raises:
        UsageError: no video can be read.
    """
    if out.is_dir():
        raise UsageError(f"--out: {out} is a folder; give a file name, such as {out / 'manifest.parquet'}")
    refuse_unwritable(out, "--out")
    files = [_file(str(root), listing.stored[video.path]) for video in listing.found]
    rejects_path = out.with_name(out.name + ".rejects.parquet")
    with _Journal(out.with_name(out.name + ".partial.jsonl")) as journal:
        known = {**_known(rejects_path, again=keep_damaged), **_known(out), **journal.rows}
        probed = {
            file["video_id"]: {**known[_key(file)], "video_id": file["video_id"]}
            for file in files
            if _key(file) in known
        }
        wanted = [row for row in files if row["video_id"] not in probed]
        for done, row in enumerate(probe_all(wanted, timeout_s, limits), 1):
            journal.write(row)
            probed[row["video_id"]] = row
            on_progress(done, len(wanted))
        rows, rejects = _accept_or_reject(listing, probed, limits, keep_damaged)
        if rows:
            write_manifest(rows, out)
        missing = [
            {
                "video_id": video.path,
                "path": remote.join(str(root), video.path),
                "reason": "the list names it, but the file does not exist",
            }
            for video in listing.missing
        ]
        unread = [
            {"video_id": where, "path": where, "reason": what}
            for where, what in (listing.problems | listing.skipped).items()
        ]
        rejects_path.unlink(missing_ok=True)
        problems = [*missing, *unread, *rejects]
        if problems:
            write_rejects(problems, rejects_path)
    if not rows:
        raise UsageError(
            f"{root}: none of the {len(files)} videos can be read; first reason: {rejects[0]['reason']}; "
            f"see all reasons in {rejects_path}"
        )
    return {
        "manifest": str(out),
        "videos": len(rows),
        "probed": len(wanted),
        "rejected": len(rejects),
        "missing": len(missing),
        "unreadable_lines": len(listing.problems),
        "skipped": len(listing.skipped),
        "other_files": listing.other_files,
        "end_before_listed": sum((row["end_frame"] or 0) > row["num_frames"] for row in rows),
        "rejects": str(rejects_path) if rejects_path.exists() else None,
        "first_problems": {str(row["video_id"]): row["reason"] for row in problems[:5]},
        "classes": len(listing.classes),
        "splits": _splits(listing, {str(row["video_id"]) for row in rows}),
        **describe(read_manifest(out)),
        "kept_damaged": sum(row["damage"] is not None for row in rows),
        "notes": [*listing.notes, *_note_of_damaged(rejects)],
    }


def _file(root: str, file: StoredFile) -> Row:
    known = {"bytes": file.bytes, "modified_ns": file.modified_ns}
    return {"video_id": file.path, "path": remote.join(root, file.path), **known}


def _key(row: Row) -> tuple[Any, ...]:
    """Identifies a version of a file: path, size and time. The path only, if a web server sends no size and time."""
    return (row["path"],) if row["modified_ns"] is None else (row["path"], row["bytes"], row["modified_ns"])


def _known(path: Path, *, again: bool = False) -> dict[tuple[Any, ...], Row]:
    """Rows of an earlier manifest or rejects file, by path, size and time. A file without a time is read again.

    Neither file records which part of a damaged video is readable. Therefore a damaged video that the manifest keeps is
    read again. With `again`, a rejected video that has a readable part is read again too.
    """
    if not path.exists():
        return {}
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError):
        raise UsageError(f"--out: {path} exists and is not a manifest; move or remove it") from None
    if not {"path", "bytes", "modified_ns"} <= set(table.column_names):
        return {}
    for name in (*PROBED.names, "damage", "readable_s"):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table)))
    rows = table.select([*PROBED.names, "damage", "readable_s"]).to_pylist()
    lasting = (row for row in rows if row["modified_ns"] is not None and row.pop("damage") is None)
    return {_key(row): row for row in lasting if not (again and row["readable_s"])}


def _accept_or_reject(
    listing: Listing, probed: dict[str, Row], limits: Limits, keep_damaged: bool
) -> tuple[list[Row], list[Row]]:
    """Splits the videos into the manifest's rows, sorted by id, and the rejected rows."""
    labels = {name: label for label, name in enumerate(listing.classes)}
    rows, rejects = [], []
    for video in sorted(listing.found, key=lambda video: video.path):
        row, damage = probed[video.path], None
        if row["reason"] and row["readable_end"] is not None:
            row = {**row, "readable_s": row["duration_s"]}
            video, row, damage = _readable(video, row) if keep_damaged else (video, row, None)
        reason = row["reason"] or _refusal(video, row, limits)
        if reason:
            lasting = row["reason"] and row.get("lasting") is not False
            again = {} if lasting else {"bytes": None, "modified_ns": None}
            rejects.append({**row, "reason": reason, **again})
            continue
        label = labels.get(video.class_name) if video.class_name is not None else None
        rows.append({**row, **vars(video), "path": row["path"], "label": label, "damage": damage})
    return rows, rejects


def _readable(video: ListedVideo, row: Row) -> tuple[ListedVideo, Row, str | None]:
    """Limits a damaged video to its readable part, and returns the damage.

    Returns the video unchanged if too few of the frames that the list asks for are readable.
    """
    start = max(video.start_frame or 0, row["readable_start"])
    end = row["readable_end"] if video.end_frame is None else min(video.end_frame, row["readable_end"])
    if end - start < FEWEST_READABLE:
        return video, row, None
    return replace(video, start_frame=start, end_frame=end), {**row, "reason": None}, row["reason"]


def _note_of_damaged(rejects: list[Row]) -> list[str]:
    """A note about the hours of video that `keep_damaged` would add."""
    seconds = [row["readable_s"] for row in rejects if row.get("readable_s")]
    if not seconds:
        return []
    hours = f"{sum(seconds) / 3600:.3g} hours"
    return [f"--keep-damaged would add {hours} of readable video from {len(seconds)} damaged video(s)"]


def _refusal(video: ListedVideo, row: Row, limits: Limits) -> str | None:
    """Why a readable video is rejected: its list asks for missing frames, or it exceeds the present limits."""
    if video.start_frame is not None and video.start_frame >= row["num_frames"]:
        return f"the list starts at frame {video.start_frame}, but the video has {row['num_frames']} frames"
    if row["num_frames"] > limits.max_frames:
        return f"the video has more than {limits.max_frames} frames, the maximum"
    return limits.refusal(row["width"], row["height"], row["duration_s"])


def _splits(listing: Listing, readable: set[str]) -> dict[str, dict[str, int]]:
    """Counts the listed, readable and missing videos of each split."""
    counts: dict[str, dict[str, int]] = {}
    for video in (*listing.found, *listing.missing):
        count = counts.setdefault(video.split or "none", {"listed": 0, "readable": 0, "missing": 0})
        count["listed"] += 1
        count["readable"] += video.path in readable
    for video in listing.missing:
        counts[video.split or "none"]["missing"] += 1
    return counts


class _Journal:
    """A file with one line for each probed video. An interrupted `index` resumes from it; a finished one deletes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = {_key(row): row for row in _whole_lines(path)}

    def __enter__(self) -> _Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.file.close()
        if kind is None or issubclass(kind, UsageError) or not self.path.stat().st_size:
            self.path.unlink(missing_ok=True)

    def write(self, row: Row) -> None:
        if row.get("lasting") is not False:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()


def _whole_lines(path: Path) -> Iterator[Row]:
    if path.exists():
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        path.write_text(
            whole + "\n" if whole else "", encoding="utf-8"
        )  # removes a half-written last line before more lines follow
        yield from map(json.loads, whole.splitlines())


def index_folder(videos: str, manifests: Path, *, on_progress: OnProgress = _ignore) -> dict[str, Any]:
    """Index a folder, a URL or a single video into a manifest of its own in the folder `manifests`; see `index`."""
    location = remote.local_or_url(videos)
    out = manifests / f"{Path(location).name}-{zlib.crc32(location.encode()):08x}.parquet"
    root, _ = root_and_file(location)
    summary = index(read_folder(location), root, out, on_progress=on_progress)
    for note in summary["notes"]:
        log.warning("note: %s", note)
    return summary


def prepare(videos: str | None, storage_path: Path, *, on_progress: OnProgress = _ignore) -> Path:
    """Make the manifest of a folder of videos, or of a small synthesized data set, under `storage_path`.

    A folder is listed at each call, and new or changed files are read. The synthesized data set is made only once.
    """
    if videos is not None:
        summary = index_folder(videos, storage_path / "manifests", on_progress=on_progress)
        if summary["rejected"]:
            log.warning("%d video(s) cannot be read and are skipped; see %s", summary["rejected"], summary["rejects"])
        return Path(summary["manifest"])
    root_path = storage_path / "synthesized"
    out = root_path / "manifest.parquet"
    if not out.exists():
        synthesize(root_path, SYNTHESIZED_VIDEOS, 0, "ucf101", on_progress=on_progress)
        listing = read_ucf101(root_path / "videos", root_path / "ucfTrainTestlist", 1)
        index(listing, root_path / "videos", out, on_progress=on_progress)
    return out

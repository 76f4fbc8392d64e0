"""`index`: from a data set's lists and files to a manifest. Only what has changed since the last time is read."""

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
from advise_ray.storage.transports import StoredFile
from advise_ray.video.annotations import ListedVideo, Listing, read_folder, read_ucf101, root_and_file
from advise_ray.video.decode import FEWEST_READABLE, LIMITS, Limits
from advise_ray.video.manifest import read_manifest, write_manifest, write_rejects
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

    Videos that cannot be read go, with their reasons, to `<out>.rejects.parquet`; those without a file too, and lines
    of the list that make no sense. A file of the same size and time as in the manifest that is there is not read
    again; nor, after an interruption, one that had been read.

    Args:
        keep_damaged: take the longest part of a damaged video that can be read.
        on_progress: called with (videos probed, videos to probe).

    Returns:
        Counts and what the videos are like, see `summary.describe`.

    Raises:
        UsageError: no video can be read.
    """
    if out.is_dir():
        raise UsageError(f"--out: {out} is a folder; name a file to write, such as {out / 'manifest.parquet'}")
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
        rows, rejects = _sort_out(listing, probed, limits, keep_damaged)
        if rows:
            write_manifest(rows, out)
        missing = [
            {"video_id": video.path, "path": remote.join(str(root), video.path), "reason": "listed, but no such file"}
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
            f"{root}: none of the {len(files)} videos can be read; the first: {rejects[0]['reason']}; "
            f"all of them: {rejects_path}"
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
        "notes": [*listing.notes, *_winnable(rejects)],
    }


def _file(root: str, file: StoredFile) -> Row:
    known = {"bytes": file.bytes, "modified_ns": file.modified_ns}
    return {"video_id": file.path, "path": remote.join(root, file.path), **known}


def _key(row: Row) -> tuple[Any, ...]:
    """What has to be the same for a file to be known; a web server tells neither size nor time."""
    return (row["path"],) if row["modified_ns"] is None else (row["path"], row["bytes"], row["modified_ns"])


def _known(path: Path, *, again: bool = False) -> dict[tuple[Any, ...], Row]:
    """Rows of an earlier manifest or its rejects, by path, size and time; without a time a file is read again.

    Neither says which part of a damaged video can be read. One that is kept is read again, and with `again` also one
    that might be.
    """
    if not path.exists():
        return {}
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError):
        raise UsageError(f"--out: {path} is there, and is not a manifest; move it away") from None
    if not {"path", "bytes", "modified_ns"} <= set(table.column_names):
        return {}
    for name in (*PROBED.names, "damage", "readable_s"):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table)))
    rows = table.select([*PROBED.names, "damage", "readable_s"]).to_pylist()
    lasting = (row for row in rows if row["modified_ns"] is not None and row.pop("damage") is None)
    return {_key(row): row for row in lasting if not (again and row["readable_s"])}


def _sort_out(
    listing: Listing, probed: dict[str, Row], limits: Limits, keep_damaged: bool
) -> tuple[list[Row], list[Row]]:
    """Rows of the manifest in the order of their ids, and of its rejects."""
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
    """A damaged video as its readable part, of what the list names; as it was, where it names nothing of that."""
    start = max(video.start_frame or 0, row["readable_start"])
    end = row["readable_end"] if video.end_frame is None else min(video.end_frame, row["readable_end"])
    if end - start < FEWEST_READABLE:
        return video, row, None
    return replace(video, start_frame=start, end_frame=end), {**row, "reason": None}, row["reason"]


def _winnable(rejects: list[Row]) -> list[str]:
    """What `keep_damaged` would win."""
    seconds = [row["readable_s"] for row in rejects if row.get("readable_s")]
    if not seconds:
        return []
    return [f"{len(seconds)} damaged videos hold {sum(seconds) / 3600:.3g} hours in one piece each: --keep-damaged"]


def _refusal(video: ListedVideo, row: Row, limits: Limits) -> str | None:
    """Why a whole video is not taken all the same: by its list, or by limits that were wider when it was read."""
    if video.start_frame is not None and video.start_frame >= row["num_frames"]:
        return f"listed from frame {video.start_frame} on, but it has {row['num_frames']} frames"
    if row["num_frames"] > limits.max_frames:
        return f"has more than the {limits.max_frames} frames allowed"
    return limits.refusal(row["width"], row["height"], row["duration_s"])


def _splits(listing: Listing, readable: set[str]) -> dict[str, dict[str, int]]:
    """Listed, readable and missing videos of each split."""
    counts: dict[str, dict[str, int]] = {}
    for video in (*listing.found, *listing.missing):
        count = counts.setdefault(video.split or "none", {"listed": 0, "readable": 0, "missing": 0})
        count["listed"] += 1
        count["readable"] += video.path in readable
    for video in listing.missing:
        counts[video.split or "none"]["missing"] += 1
    return counts


class _Journal:
    """What has been probed, a line each, so that an interrupted index goes on where it was; gone when it is done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = {_key(row): row for row in _whole_lines(path)}

    def __enter__(self) -> _Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("a")
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
        whole, _, _ = path.read_text().rpartition("\n")
        path.write_text(whole + "\n" if whole else "")  # what follows must not be joined to half a line
        yield from map(json.loads, whole.splitlines())


def index_folder(videos: str, manifests: Path, *, on_progress: OnProgress = _ignore) -> dict[str, Any]:
    """Index a folder, a URL or a single video into its own file in the folder `manifests`; see `index`."""
    location = remote.local_or_url(videos)
    out = manifests / f"{Path(location).name}-{zlib.crc32(location.encode()):08x}.parquet"
    root, _ = root_and_file(location)
    summary = index(read_folder(location), root, out, on_progress=on_progress)
    for note in summary["notes"]:
        log.warning("note: %s", note)
    return summary


def prepare(videos: str | None, storage_path: Path, *, on_progress: OnProgress = _ignore) -> Path:
    """The manifest of a folder of videos, or of a small synthesized data set, made under `storage_path`.

    A folder is listed anew each time, and what has changed in it is read; the synthesized set is made once.
    """
    if videos is not None:
        summary = index_folder(videos, storage_path / "manifests", on_progress=on_progress)
        if summary["rejected"]:
            log.warning("%d videos cannot be read and are left out; why: %s", summary["rejected"], summary["rejects"])
        return Path(summary["manifest"])
    root_path = storage_path / "synthesized"
    out = root_path / "manifest.parquet"
    if not out.exists():
        synthesize(root_path, SYNTHESIZED_VIDEOS, 0, "ucf101", on_progress=on_progress)
        listing = read_ucf101(root_path / "videos", root_path / "ucfTrainTestlist", 1)
        index(listing, root_path / "videos", out, on_progress=on_progress)
    return out

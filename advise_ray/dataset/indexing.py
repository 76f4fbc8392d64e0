"""`index`: writes a manifest from a data set's lists and files. It reads only files that have changed."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from advise_ray.dataset.journal import Journal, read_known, version
from advise_ray.dataset.probing import TIMEOUT_S, Listed, Probed, probe_all, reject
from advise_ray.dataset.summary import IndexSummary, describe
from advise_ray.errors import UsageError
from advise_ray.storage import remote
from advise_ray.storage.atomic import refuse_unwritable, write_whole
from advise_ray.storage.transports import StoredFile
from advise_ray.video.annotations import ListedVideo, Listing, read_folder, read_ucf101, root_and_file
from advise_ray.video.manifest import ManifestRow, read_manifest, write_manifest
from advise_ray.video.pool import hash_videos
from advise_ray.video.probe import FEWEST_READABLE, LIMITS, Limits
from advise_ray.video.rejects import Reject, write_rejects
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
    option: str = "--out",
) -> IndexSummary:
    """Probe the listed videos under `root` on all CPUs and write the manifest.

    `<out>.rejects.parquet` gets the videos that cannot be read, the listed videos without a file, and the list's
    invalid lines, each with its reason. A file is not read again if an existing manifest has it with the same size and
    modification time, or if an interrupted run has already read it.

    Args:
        keep_damaged: keep the longest readable part of each damaged video.
        on_progress: called with (videos probed, videos to probe).
        option: what named `out`, for error messages.

    Raises:
        UsageError: no video can be read, or `out` cannot be written.
    """
    if out.is_dir():
        raise UsageError(f"--out: {out} is a folder; give a file name, such as {out / 'manifest.parquet'}")
    refuse_unwritable(out, option)
    files = [_file(str(root), listing.stored[video.path]) for video in listing.found]
    rejects_path = out.with_name(out.name + ".rejects.parquet")
    with Journal(out.with_name(out.name + ".partial.jsonl")) as journal:
        known = {**read_known(rejects_path, again=keep_damaged), **read_known(out), **journal.rows}
        probed: dict[str, Probed] = {
            file["video_id"]: {**known[version(file)], "video_id": file["video_id"]}
            for file in files
            if version(file) in known
        }
        wanted = [row for row in files if row["video_id"] not in probed]
        for done, row in enumerate(probe_all(wanted, timeout_s, limits), 1):
            journal.write(row)
            probed[row["video_id"]] = row
            on_progress(done, len(wanted))
        rows, rejects = _accept_or_reject(listing, probed, limits, keep_damaged)
        if rows:
            write_manifest(rows, out)
        absent = "the list names it, but the file does not exist"
        missing = [
            Reject(video_id=video.path, path=remote.join(str(root), video.path), reason=absent)
            for video in listing.missing
        ]
        unread = [
            Reject(video_id=where, path=where, reason=what)
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
        "first_problems": {row["video_id"]: row["reason"] for row in problems[:5]},
        "classes": len(listing.classes),
        "splits": _splits(listing, {row["video_id"] for row in rows}),
        **describe(read_manifest(out)),
        "kept_damaged": sum(row["damage"] is not None for row in rows),
        "notes": [*listing.notes, *_note_of_damaged(rejects)],
    }


def _file(root: str, file: StoredFile) -> Listed:
    return Listed(video_id=file.path, path=remote.join(root, file.path), bytes=file.bytes, modified_ns=file.modified_ns)


def _accept_or_reject(
    listing: Listing, probed: dict[str, Probed], limits: Limits, keep_damaged: bool
) -> tuple[list[ManifestRow], list[Reject]]:
    """Splits the videos into the manifest's rows, sorted by id, and the rejected videos."""
    labels = {name: label for label, name in enumerate(listing.classes)}
    rows, rejects = [], []
    for video in sorted(listing.found, key=lambda video: video.path):
        file, damage = probed[video.path], None
        if file["reason"] and file["readable_end"] is not None:
            file = {**file, "readable_s": file["duration_s"]}
            video, damage = _readable(video, file) if keep_damaged else (video, None)
        failure = file["reason"] if damage is None else None
        label = labels.get(video.class_name) if video.class_name is not None else None
        row = cast("ManifestRow", {**file, **vars(video), "path": file["path"], "label": label, "damage": damage})
        reason = failure or _refusal(row, limits)
        if reason:
            rejects.append(reject(file, reason, again=not failure or file["lasting"] is False))
        else:
            rows.append(row)
    return rows, rejects


def _readable(video: ListedVideo, file: Probed) -> tuple[ListedVideo, str | None]:
    """Limits a damaged video to its readable part, and returns the damage.

    Returns the video unchanged if too few of the frames that the list asks for are readable.
    """
    assert file["readable_end"] is not None
    start = max(video.start_frame or 0, file["readable_start"] or 0)
    end = file["readable_end"] if video.end_frame is None else min(video.end_frame, file["readable_end"])
    if end - start < FEWEST_READABLE:
        return video, None
    return replace(video, start_frame=start, end_frame=end), file["reason"]


def _note_of_damaged(rejects: list[Reject]) -> list[str]:
    """A note about the hours of video that `keep_damaged` would add."""
    seconds = [row["readable_s"] for row in rejects if row["readable_s"]]
    if not seconds:
        return []
    hours = f"{sum(seconds) / 3600:.3g} hours"
    return [f"--keep-damaged would add {hours} of readable video from {len(seconds)} damaged video(s)"]


def _refusal(row: ManifestRow, limits: Limits) -> str | None:
    """Why a readable video is rejected: its list asks for missing frames, or it exceeds the present limits."""
    if row["start_frame"] is not None and row["start_frame"] >= row["num_frames"]:
        return f"the list starts at frame {row['start_frame']}, but the video has {row['num_frames']} frames"
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


def index_folder(videos: str, manifests: Path, *, on_progress: OnProgress = _ignore) -> IndexSummary:
    """Index a folder, a URL or a single video into a manifest of its own in the folder `manifests`; see `index`."""
    location = remote.local_or_url(videos)
    out = manifests / f"{Path(location).name}-{zlib.crc32(location.encode()):08x}.parquet"
    root, _ = root_and_file(location)
    summary = index(read_folder(location), root, out, on_progress=on_progress, option="storage.path")
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
        # The next call can replace the manifest. Earlier runs need theirs to resume, so each state has a file.
        manifest = Path(summary["manifest"])
        kept = manifest.with_name(f"{manifest.stem}-{hash_videos(read_manifest(manifest))[:8]}.parquet")
        if not kept.exists():
            write_whole(kept, manifest.read_bytes())
        return kept
    root_path = storage_path / "synthesized"
    out = root_path / "manifest.parquet"
    if not out.exists():
        synthesize(root_path, SYNTHESIZED_VIDEOS, 0, "ucf101", on_progress=on_progress)
        listing = read_ucf101(root_path / "videos", root_path / "ucfTrainTestlist", 1)
        index(listing, root_path / "videos", out, on_progress=on_progress, option="storage.path")
    return out

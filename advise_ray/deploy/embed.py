"""`embed`: encodes videos clip by clip with a trained model, on Ray Data, and writes or updates one Parquet file."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from advise_ray import dataset
from advise_ray.backend.frame_encoder import encode_groups
from advise_ray.deploy.embed_clips import ClipRow, EmbedClips, groups_of, part_name, write_part
from advise_ray.deploy.embeddings_file import (
    INSTEAD,
    Settings,
    count,
    held_versions,
    model_hash,
    refuse_other,
    version_of,
    write,
)
from advise_ray.deploy.load import VideoModel, load, locate
from advise_ray.errors import InterruptedRunError, UsageError
from advise_ray.storage.atomic import refuse_unwritable, write_whole
from advise_ray.storage.lock import hold_lock
from advise_ray.video.annotations import Listing, read_folder, root_and_file
from advise_ray.video.frames import group_of
from advise_ray.video.manifest import SCHEMA as MANIFEST
from advise_ray.video.manifest import read_manifest, videos

log = logging.getLogger("advise_ray")
OnProgress = Callable[[int, int], None]


class EmbedResult(TypedDict):
    """What a job did, and what its file has now."""

    out: str
    videos: int
    """Videos of the file."""
    clips: int
    """Clips of the file, one row each."""
    failed_videos: int
    """Videos of the file with only an error."""
    added_videos: int
    """Videos that the file did not have before, with those that failed."""
    changed_videos: int
    """Videos whose rows were replaced: their file has changed, or they had failed and were tried again."""
    kept_videos: int
    """Videos whose rows were kept."""
    missing_videos: int
    """Videos of the file that `--videos` does not have any more. Their rows were kept."""
    wall_s: float


@dataclass(frozen=True)
class Footage:
    """The videos of a manifest or a folder.

    Attributes:
        source: the manifest's table, or the folder's listing, whose files have not been read.
        root: the folder or URL; empty for a manifest.
        versions: maps video ids to versions, see `version_of`.
    """

    source: pa.Table | Listing
    root: str
    versions: dict[str, str]


def embed(
    source: Path | str,
    footage: str,
    out: Path,
    *,
    top_k: int = 5,
    step_s: float | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> EmbedResult:
    """Encode every video of a manifest or a folder clip by clip.

    If `out` exists, only new and changed videos are encoded, and all other rows are kept. The same call resumes an
    interrupted job. Until the job ends, `out` stays as it was.

    Args:
        source: see `deploy.load.load`.
        footage: a manifest (Parquet), a folder or URL of videos, or one video.
        step_s: seconds from the start of one clip to the start of the next. None: each clip starts where the previous
            clip ends.

    Raises:
        UsageError: `out` was made with another model, other settings or other videos, or there are no videos.
        InterruptedRunError: on KeyboardInterrupt. Finished parts are kept.
    """
    started_s = time.monotonic()
    refuse_unwritable(out, "--out")
    path = locate(source, "CHECKPOINT_OR_RUN")
    settings: Settings = {"model": model_hash(path), "step_s": step_s, "top_k": top_k}
    given = _list(footage)
    try:
        with _locked_parts(out) as parts:
            held = held_versions(out, settings) if out.exists() else {}
            todo = {video_id for video_id, version in given.versions.items() if held.get(video_id) != version}
            kept, missing = given.versions.keys() - todo, held.keys() - given.versions.keys()
            if held and not kept and any(held.values()):
                raise UsageError(f"--out: {out} has none of the videos of {footage}, as they are now; {INSTEAD}")
            if todo:
                _refuse_other_job(parts, settings)
                names = _embed(load(path), settings, given, todo, parts, on_progress, is_first=not held)
                write(out, settings, todo, [parts / name for name in names])
            shutil.rmtree(parts)
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted; run the same command again to resume") from None
    if missing:
        log.warning(
            "note: %d videos of %s are not in --videos any more, such as %s; their rows are kept",
            len(missing),
            out,
            min(missing),
        )
    changed = len(todo & held.keys())
    return {
        "out": str(out),
        **count(out),
        "added_videos": len(todo) - changed,
        "changed_videos": changed,
        "kept_videos": len(kept),
        "missing_videos": len(missing),
        "wall_s": round(time.monotonic() - started_s, 1),
    }


@contextlib.contextmanager
def _locked_parts(out: Path) -> Iterator[Path]:
    """Context with the folder of the job's part files. It stays only if the job has written something.

    Raises:
        UsageError: another job is writing the same file.
    """
    parts = out.with_name(out.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(parts / ".lock"))
        except BlockingIOError:
            raise UsageError(f"--out: another `advise-ray embed` is writing {out}; wait until it ends") from None
        try:
            yield parts
        finally:
            if parts.exists() and [path.name for path in parts.iterdir()] == [".lock"]:
                shutil.rmtree(parts)


def _list(footage: str) -> Footage:
    """List the videos and their versions, without reading the videos."""
    if footage.endswith(".parquet"):
        if not Path(footage).exists():
            raise UsageError(f"--videos: {footage} does not exist")
        table = read_manifest(Path(footage))
        rows = table.select(["video_id", "bytes", "modified_ns", "start_frame", "end_frame"]).to_pylist()
        return Footage(table, "", {row.pop("video_id"): version_of(*row.values()) for row in rows})
    listing, (root, _) = read_folder(footage), root_and_file(footage)
    for name, reason in list(listing.skipped.items())[:1]:
        log.warning("note: skipped %d files and folders, such as %s: %s", len(listing.skipped), name, reason)
    files = {video.path: listing.stored[video.path] for video in listing.found}
    return Footage(listing, root, {name: version_of(file.bytes, file.modified_ns) for name, file in files.items()})


def _embed(
    model: VideoModel,
    settings: Settings,
    given: Footage,
    todo: set[str],
    parts: Path,
    on_progress: OnProgress,
    *,
    is_first: bool,
) -> list[str]:
    """Encode the videos `todo`, and return the names of the part files with their rows."""
    table, rejects = _read(given, todo, parts, is_first)
    every = videos(table)
    versions = [given.versions[video.video_id] for video in every]
    for partial in parts.glob(".*.partial"):
        partial.unlink()
    groups = list(groups_of(every, model.config, settings["step_s"]))
    names = [
        part_name(
            [(video.video_id, versions[row]) for row, video, _ in group],
            np.concatenate([frames for *_, frames in group]),
        )
        for group in groups
    ]
    left = [group_of(group) for group, name in zip(groups, names, strict=True) if not (parts / name).exists()]
    on_progress(len(groups) - len(left), len(groups))
    if left:
        top_k = min(settings["top_k"], len(model.classes))
        function = EmbedClips(model.config, model.classes, top_k, every, versions, parts)
        blocks = encode_groups(left, function, model.config, model, len(model.classes), everywhere=True)
        for done, _ in enumerate(blocks, len(groups) - len(left) + 1):
            on_progress(done, len(groups))
    write_part(parts / "rejects.parquet", rejects)
    return [*names, "rejects.parquet"]


def _read(given: Footage, todo: set[str], parts: Path, is_first: bool) -> tuple[pa.Table, list[ClipRow]]:
    """Return the manifest of the videos `todo`, and the rows of those that cannot be read.

    Raises:
        UsageError: it is the first job of its file, and no video can be read.
    """
    if isinstance(given.source, pa.Table):
        return given.source.filter(pc.is_in(given.source.column("video_id"), pa.array(sorted(todo)))), []
    found = [video for video in given.source.found if video.path in todo]
    listing = replace(given.source, found=found, missing=[], problems={}, skipped={}, notes=[])
    manifest = parts / "manifests" / "manifest.parquet"
    rejects = manifest.with_name(manifest.name + ".rejects.parquet")
    try:
        dataset.index(listing, given.root, manifest)
        table = read_manifest(manifest)
    except UsageError:
        if is_first or not rejects.exists():
            raise
        table = MANIFEST.empty_table()
    rows: list[ClipRow] = []
    for row in pq.read_table(rejects).to_pylist() if rejects.exists() else []:
        is_lasting = row["bytes"] is not None or row["modified_ns"] is not None
        version = given.versions.get(row["video_id"]) if is_lasting else None
        rows.append({"video_id": row["video_id"], "error": " ".join(row["reason"].split()), "version": version})
    return table, rows


def _refuse_other_job(parts: Path, settings: Settings) -> None:
    """Raise UsageError if the existing part files were made with another model or other settings."""
    path = parts / "job.json"
    if path.exists():
        refuse_other(json.loads(path.read_text(encoding="utf-8")), settings, parts)
    else:
        write_whole(path, json.dumps(settings))

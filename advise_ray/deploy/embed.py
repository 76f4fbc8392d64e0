"""`embed`: encodes videos clip by clip with a trained model, on Ray Data, and writes or updates one Parquet file."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from advise_ray import dataset
from advise_ray.backend.frame_encoder import encode_groups
from advise_ray.deploy import embed_groups
from advise_ray.deploy.embed_clips import ClipRow, EmbedClips, write_part
from advise_ray.deploy.embed_groups import left_groups, named_groups, num_groups, version_of
from advise_ray.deploy.embeddings_file import (
    INSTEAD,
    Settings,
    Sources,
    count,
    first_failure,
    held_versions,
    model_hash,
    refuse_other,
    versions_of,
    write,
)
from advise_ray.deploy.load import MLFLOW_URI, VideoModel, load, locate
from advise_ray.errors import InterruptedRunError, UsageError
from advise_ray.storage import remote
from advise_ray.storage.atomic import refuse_unwritable, write_whole
from advise_ray.storage.lock import hold_lock
from advise_ray.video.annotations import Listing, read_folder, root_and_file
from advise_ray.video.manifest import SCHEMA as MANIFEST
from advise_ray.video.manifest import Videos, read_manifest
from advise_ray.video.row_keys import text_keys

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
        ids, versions: id and version of each video, see `version_of`.
    """

    source: pa.Table | Listing
    root: str
    ids: pa.ChunkedArray
    versions: pa.ChunkedArray


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
    sources: Sources = {
        "run": str(source if MLFLOW_URI.match(str(source)) else path),
        "videos": remote.local_or_url(footage),
    }
    given = _list(footage)
    try:
        with _locked_parts(out) as parts:
            held = held_versions(out, settings)
            is_new, is_changed = _compare(given, held)
            todo = is_new | is_changed
            if len(held) and todo.all() and held.column("version").null_count < len(held):
                raise UsageError(f"--out: {out} has none of the videos of {footage}, as they are now; {INSTEAD}")
            if todo.any():
                _refuse_other_job(parts, settings)
                names = _embed(load(path), settings, given, todo, parts, on_progress, is_first=not len(held))
                write(out, settings, sources, given.ids.filter(pa.array(is_changed)), [parts / name for name in names])
            shutil.rmtree(parts)
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted; run the same command again to resume") from None
    is_missing = ~np.isin(text_keys(held.column("video_id")), text_keys(given.ids))
    missing = pc.unique(held.column("video_id").filter(pa.array(is_missing)))
    if len(missing):
        log.warning(
            "note: %d videos of %s are not in --videos any more, such as %s; their rows are kept",
            len(missing),
            out,
            pc.min(missing).as_py(),
        )
    if failed := first_failure(out):
        log.warning("note: videos without embeddings are listed in %s with the reason, such as %s: %s", out, *failed)
    return {
        "out": str(out),
        **count(out),
        "added_videos": int(is_new.sum()),
        "changed_videos": int(is_changed.sum()),
        "kept_videos": int((~todo).sum()),
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
        return Footage(table, "", table.column("video_id"), versions_of(table))
    listing, (root, _) = read_folder(footage), root_and_file(footage)
    for name, reason in list(listing.skipped.items())[:1]:
        log.warning("note: skipped %d files and folders, such as %s: %s", len(listing.skipped), name, reason)
    files = [listing.stored[video.path] for video in listing.found]
    ids, versions = [file.path for file in files], [version_of(file.bytes, file.modified_ns) for file in files]
    return Footage(listing, root, *(pa.chunked_array([texts], pa.string()) for texts in (ids, versions)))


def _compare(given: Footage, held: pa.Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which videos the file does not have, and which it has only in another version or failed, bool[n] each."""
    ids = text_keys(given.ids)
    is_known = np.isin(ids, text_keys(held.column("video_id")))
    has_version = held.column("version").is_valid()
    has_failed = np.isin(ids, text_keys(held.column("video_id").filter(pc.invert(has_version))))
    is_same = np.isin(_pairs(given.ids, given.versions), _pairs(*held.filter(has_version).columns))
    return ~is_known, is_known & (has_failed | ~is_same)


def _pairs(ids: pa.ChunkedArray, versions: pa.ChunkedArray) -> NDArray[np.int64]:
    return text_keys(pc.binary_join_element_wise(ids, versions, "\n"))


def _embed(
    model: VideoModel,
    settings: Settings,
    given: Footage,
    todo: NDArray[np.bool_],
    parts: Path,
    on_progress: OnProgress,
    *,
    is_first: bool,
) -> list[str]:
    """Encode the videos `todo`, and return the names of the part files with their rows."""
    table, rejects = _read(given, todo, parts, is_first)
    config, step_s, every = model.config, settings["step_s"], Videos(table)
    most_frames = embed_groups.GROUP_FRAMES  # other processes get it with the groups
    for partial_file in parts.glob(".*.partial"):
        partial_file.unlink()
    done, total = 0, num_groups(table, config, step_s)
    if any(path.name not in ("job.json", ".lock") and path.is_file() for path in parts.iterdir()):  # an interrupted job
        done = sum((parts / name).exists() for name, _ in named_groups(every, config, step_s, most_frames))
    on_progress(done, total)
    left = partial(left_groups, every, config, step_s, most_frames, parts)
    if next(left(), None) is not None:
        top_k = min(settings["top_k"], len(model.classes))
        function = EmbedClips(config, model.classes, top_k, parts)
        blocks = encode_groups(left, function, config, model, len(model.classes), everywhere=True)
        for number, _ in enumerate(blocks, done + 1):
            on_progress(number, max(number, total))
    write_part(parts / "rejects.parquet", rejects)
    return [*(name for name, _ in named_groups(every, config, step_s, most_frames)), "rejects.parquet"]


def _read(given: Footage, todo: NDArray[np.bool_], parts: Path, is_first: bool) -> tuple[pa.Table, list[ClipRow]]:
    """Return the manifest of the videos `todo`, and the rows of those that cannot be read.

    Raises:
        UsageError: it is the first job of its file, and no video can be read.
    """
    if isinstance(given.source, pa.Table):
        return (given.source if todo.all() else given.source.filter(pa.array(todo))), []
    found = [video for video, is_wanted in zip(given.source.found, todo, strict=True) if is_wanted]
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
        file = given.source.stored[row["video_id"]]
        version = version_of(file.bytes, file.modified_ns) if is_lasting else None
        rows.append({"video_id": row["video_id"], "error": " ".join(row["reason"].split()), "version": version})
    return table, rows


def _refuse_other_job(parts: Path, settings: Settings) -> None:
    """Raise UsageError if the existing part files were made with another model or other settings."""
    path = parts / "job.json"
    if path.exists():
        refuse_other(json.loads(path.read_text(encoding="utf-8")), settings, parts)
    else:
        write_whole(path, json.dumps(settings))

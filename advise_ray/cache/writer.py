"""The `cache` command: encodes every video of a manifest once. Run again, it continues and adds new videos."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from advise_ray.backend import session, shutdown_notice
from advise_ray.backend.frame_encoder import encode_groups
from advise_ray.cache import grouping
from advise_ray.cache.cache_plan import CachePlan, refuse_too_large
from advise_ray.cache.folder import lock, sweep
from advise_ray.cache.identity import PIECE_FRAMES
from advise_ray.cache.part_encoder import EncodePart
from advise_ray.cache.part_file import Part
from advise_ray.cache.piece_index import Index, check_parts, rows_of, write_index
from advise_ray.cache.store import read_rejects, write_identity, write_rejects
from advise_ray.errors import CacheError, InterruptedRunError
from advise_ray.storage.retry import patiently
from advise_ray.video.manifest import frames_per_video

log = logging.getLogger("advise_ray")
OnProgress = Callable[[int, int], None]


class CacheResult(TypedDict):
    """The result of a job, and the output of `cache --json`.

    Attributes:
        cache: path or URL of the cache.
        videos: number of videos in the manifests.
        encoded: number of videos that this job encoded.
        failed_videos: number of videos that this job could not decode.
        damaged_parts: names of the parts that were damaged and have been encoded again.
        bytes: size of all parts.
        wall_s: seconds that the job took.
    """

    cache: str
    videos: int
    encoded: int
    failed_videos: int
    damaged_parts: list[str]
    bytes: int
    wall_s: float


def write_cache(plan: CachePlan, on_progress: OnProgress = lambda done, total: None) -> CacheResult:
    """Encode the missing videos. If the job stops early, the parts that are written stay.

    Args:
        on_progress: called with the number of finished pieces and the number of all pieces to do.

    Raises:
        UsageError: another job is writing to the folder, or the disk has too little room.
        CacheError: the disk is full, or too many videos cannot be decoded.
        InterruptedRunError: on SIGINT or SIGTERM, after the group of videos that is being encoded.
    """
    started_s = time.monotonic()
    for note in plan.notes():
        log.warning("note: %s", note)
    with lock(plan.location):
        sweep(plan.location)
        index, damaged = check_parts(plan.location, plan.identity) if plan.begun else (Index(), [])
        plan = plan.revised(index.table())  # damaged parts, or another job, may have changed what is missing
        refuse_too_large(plan)
        rejects: dict[str, str] = {}
        try:
            if not plan.begun:
                write_identity(plan.location, plan.identity)
            _encode(plan, index, rejects, on_progress)
            _write_index(plan, index, rejects)
        except BaseException as error:
            with contextlib.suppress(OSError):  # the next job finds the finished videos in the parts
                _write_index(plan, index, rejects)
            if isinstance(error, KeyboardInterrupt):
                kept = f"{_count_cached(plan, index)} are kept"
                raise InterruptedRunError(f"interrupted; {kept}; the same command continues") from None
            if isinstance(error, OSError):
                raise CacheError(_stop_message(error.strerror or str(error), plan, index)) from None
            raise
    max_failed_fraction = plan.config.data.max_failed_fraction
    if len(rejects) > max_failed_fraction * len(plan.videos):
        raise CacheError(
            f"{len(rejects)} of {len(plan.videos)} videos cannot be decoded, more than data.max_failed_fraction="
            f"{max_failed_fraction} allows; for example {': '.join(next(iter(rejects.items())))}"
        )
    parts = index.table().group_by("part").aggregate([("part_bytes", "max")])
    return CacheResult(
        cache=plan.location,
        videos=len(plan.videos),
        encoded=len(plan.missing) - len(plan.lacking(index.table())),
        failed_videos=len(rejects),
        damaged_parts=damaged,
        bytes=pc.sum(parts.column("part_bytes_max")).as_py() or 0,
        wall_s=round(time.monotonic() - started_s, 1),
    )


def _encode(plan: CachePlan, index: Index, rejects: dict[str, str], on_progress: OnProgress) -> None:
    """Encode the missing videos group by group. Adds each new piece to `index`, and each failed video to `rejects`."""
    kept = plan.identity.num_kept(frames_per_video(plan.videos.table)[plan.missing])
    done, total = 0, int((-(-kept // PIECE_FRAMES)).sum())
    if not total:
        return
    function = EncodePart(plan.config, plan.identity, plan.location)
    wanted = partial(grouping.groups, plan.config, plan.identity, plan.videos, plan.missing, grouping.GROUP_BYTES)
    session.connect()  # the shutdown notice needs Ray
    with shutdown_notice.awaited(plan.location, plan.config.train.grace_s, lambda: done > 0) as noticed:
        for block in encode_groups(wanted, function, plan.config, plan.model, 2):
            if block["error"][0]:
                raise CacheError(_stop_message(str(block["error"][0]), plan, index))
            if block["part"][0]:
                index.add(rows_of(Part(plan.location, str(block["part"][0]))))
            for row, failure in zip(block["rows"][0], str(block["failures"][0]).split("\n"), strict=True):
                if failure:
                    rejects[plan.videos[row].video_id] = failure
            done += len(block["rows"][0])
            on_progress(done, total)
            if noticed.given and done < total:
                raise KeyboardInterrupt


def _write_index(plan: CachePlan, index: Index, rejects: dict[str, str]) -> None:
    """Write the index and the rejects. Earlier rejects of other manifests' videos are kept."""
    table = index.table()
    write_index(plan.location, table)
    known = patiently(lambda: read_rejects(plan.location)) | rejects
    lacking = np.zeros(len(plan.videos), dtype=bool)
    lacking[plan.lacking(table)] = True
    ids = plan.videos.table.column("video_id")
    rows = np.flatnonzero(np.asarray(pc.is_in(ids, pa.array(list(known), pa.string())))).tolist()
    missing = {ids[row].as_py() for row in rows if lacking[row]}  # several videos can have the same id
    complete = {ids[row].as_py() for row in rows} - missing
    write_rejects(plan.location, {name: why for name, why in known.items() if name not in complete})


def _count_cached(plan: CachePlan, index: Index) -> str:
    return f"{len(plan.videos) - len(plan.lacking(index.table()))} of {len(plan.videos)} videos"


def _stop_message(reason: str, plan: CachePlan, index: Index) -> str:
    return (
        f"{plan.location}: {reason}; {_count_cached(plan, index)} are kept; fix this and run the same command again to "
        "continue; --dry-run with another --out lists smaller caches"
    )

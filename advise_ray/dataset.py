"""The Ray Data jobs over a data set: `index` probes every video and writes the manifest."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import ray.data

from advise_ray import runtime
from advise_ray.errors import UsageError, VideoDecodeError
from advise_ray.video.annotations import Listing, read_folder, read_ucf101
from advise_ray.video.decode import probe
from advise_ray.video.manifest import SCHEMA, write_manifest, write_rejects
from advise_ray.video.synth import synthesize

FILES_PER_BLOCK = 8
"""Small, so that the progress bar moves and the last block does not keep one CPU busy for long."""


SYNTHESIZED_VIDEOS = 96
OnProgress = Callable[[int, int], None]
log = logging.getLogger("advise_ray")


def _ignore(_done: int, _total: int) -> None:
    pass


@dataclass(frozen=True)
class IndexSummary:
    """What `index` found; the counts add up to the lines of the list."""

    manifest: str
    videos: int
    rejected: int
    missing: int
    unreadable_lines: int
    rejects: str | None
    classes: int


def index(listing: Listing, root: Path, out: Path, *, on_progress: OnProgress = _ignore) -> IndexSummary:
    """Probe the listed videos under `root` on all CPUs and write the manifest.

    Videos that cannot be read go, with their reasons, to `<out>.rejects.parquet`, those without a file too, and lines
    of the list that make no sense.

    Args:
        on_progress: called with (videos probed, videos in all).

    Raises:
        UsageError: no video can be read.
    """
    labels = {name: label for label, name in enumerate(listing.classes)}
    by_id = {video.path: video for video in listing.found}
    rows: list[dict[str, object]] = []
    rejects: list[dict[str, str]] = []
    for done, row in enumerate(_probe_all(root, sorted(by_id)), 1):
        on_progress(done, len(by_id))
        reason = row.pop("reason")
        if reason is not None:
            rejects.append({"video_id": str(row["video_id"]), "path": str(row["path"]), "reason": str(reason)})
            continue
        video = by_id[str(row["video_id"])]
        label = labels.get(video.class_name) if video.class_name is not None else None
        rows.append({**row, "label": label, "class_name": video.class_name, "split": video.split})
    if not rows:
        raise UsageError(f"{root}: none of the {len(by_id)} videos can be read; the first: {rejects[0]['reason']}")
    rows.sort(key=lambda row: str(row["video_id"]))
    write_manifest(rows, out)
    rejects_path = out.with_name(out.name + ".rejects.parquet")
    rejects_path.unlink(missing_ok=True)
    unread = [
        *(
            {"video_id": path, "path": str(root / path), "reason": "listed, but there is no such file"}
            for path in listing.missing
        ),
        *({"video_id": where, "path": where, "reason": what} for where, what in listing.problems.items()),
    ]
    if unread or rejects:
        write_rejects([*unread, *rejects], rejects_path)
    return IndexSummary(
        manifest=str(out),
        videos=len(rows),
        rejected=len(rejects),
        missing=len(listing.missing),
        unreadable_lines=len(listing.problems),
        rejects=str(rejects_path) if unread or rejects else None,
        classes=len(listing.classes),
    )


def prepare(videos: Path | None, storage: Path, *, on_progress: OnProgress = _ignore) -> Path:
    """The manifest of a folder of videos, or of a small synthesized data set, made under `storage`.

    A folder is read anew each time; the synthesized set is made once.
    """
    if videos is not None:
        videos = videos.absolute()
        out = storage / "manifests" / f"{videos.name}-{zlib.crc32(str(videos).encode()):08x}.parquet"
        summary = index(read_folder(videos), videos, out, on_progress=on_progress)
        if summary.rejected:
            log.warning("%d videos cannot be read and are left out; why: %s", summary.rejected, summary.rejects)
        return out
    root = storage / "synthesized"
    out = root / "manifest.parquet"
    if not out.exists():
        synthesize(root, SYNTHESIZED_VIDEOS, 0, "ucf101", on_progress=on_progress)
        listing = read_ucf101(root / "videos", root / "ucfTrainTestlist", 1)
        index(listing, root / "videos", out, on_progress=on_progress)
    return out


def _probe_all(root: Path, video_ids: list[str]) -> Iterator[dict[str, object]]:
    """Probe on Ray Data; rows come as they are done, in any order."""
    runtime.connect()
    table = pa.table({"video_id": video_ids, "path": [str(root / video_id) for video_id in video_ids]})
    blocks = [table.slice(start, FILES_PER_BLOCK) for start in range(0, len(table), FILES_PER_BLOCK)]
    probed = ray.data.from_arrow(blocks).map_batches(_probe_block, batch_size=None, batch_format="pyarrow")
    for block in probed.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from block.to_pylist()


_LISTED = ("label", "class_name", "split")
_PROBED = pa.schema([field for field in SCHEMA if field.name not in _LISTED] + [("reason", pa.string())])


def _probe_block(block: pa.Table) -> pa.Table:
    rows = []
    for row in block.to_pylist():
        try:
            rows.append({**row, "reason": None, **vars(probe(Path(row["path"])))})
        except VideoDecodeError as error:
            rows.append({**row, "reason": error.reason})
    return pa.Table.from_pylist(rows, schema=_PROBED)

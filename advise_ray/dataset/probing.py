"""Probes files with Ray Data on all CPUs. A separate decoding process reads each file to its end."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NotRequired, TypedDict

import pyarrow as pa
import ray.data

from advise_ray.backend import session
from advise_ray.backend.processes import Shares
from advise_ray.backend.reservation import await_resources
from advise_ray.config import TrainConfig
from advise_ray.errors import VideoDecodeError
from advise_ray.storage.parquet import schema_of
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.probe import Limits
from advise_ray.video.rejects import Reject

FILES_PER_BLOCK = 8
"""A small number, so that the progress bar moves often and one last block does not keep a single CPU busy for long."""
TIMEOUT_S = 600.0
"""Maximum time in seconds for reading one file to its end."""


class Listed(TypedDict):
    """A file to probe. The keys are those of `ManifestRow`."""

    video_id: str
    path: str
    bytes: int | None
    modified_ns: int | None


class Probed(Listed):
    """A probed file: a row on Ray Data, and a line of the journal of `index`.

    Attributes:
        num_frames, …, rotation_deg: those of `ManifestRow`. None if nothing of the file can be read.
        reason: why the file cannot be read; None if it can.
        detail: the message of the library.
        lasting: whether another try would fail too.
        readable_start, readable_end: the frames `readable_start` to `readable_end` - 1 of a damaged video can be read.
        readable_s: seconds of these frames. None before `index` has set it.
    """

    num_frames: int | None
    fps: float | None
    width: int | None
    height: int | None
    duration_s: float | None
    codec: str | None
    decoder: str | None
    stream_index: int | None
    rotation_deg: int | None
    reason: str | None
    detail: str | None
    lasting: bool | None
    readable_start: int | None
    readable_end: int | None
    readable_s: NotRequired[float | None]


PROBED = schema_of(Probed)


def reject(probed: Probed, reason: str, *, again: bool) -> Reject:
    """Return the row of `rejects.parquet` for a file. With `again`, the next `index` reads the file again."""
    return Reject(
        video_id=probed["video_id"],
        path=probed["path"],
        reason=reason,
        detail=probed["detail"],
        bytes=None if again else probed["bytes"],
        modified_ns=None if again else probed["modified_ns"],
        readable_s=probed.get("readable_s"),
    )


def probe_all(files: Sequence[Listed], timeout_s: float, limits: Limits) -> Iterator[Probed]:
    """Probe files and yield each as it finishes, in any order."""
    if not files:
        return
    session.connect()
    await_resources(Shares(1, 1.0, 0, 0.0, use_gpu=False), TrainConfig().max_wait_s)
    table = pa.Table.from_pylist(list(files), schema=PROBED)
    blocks = [table.slice(start, FILES_PER_BLOCK) for start in range(0, len(table), FILES_PER_BLOCK)]
    probed = ray.data.from_arrow(blocks).map_batches(
        _probe_block,
        fn_kwargs={"timeout_s": timeout_s, "limits": limits},
        batch_size=None,
        batch_format="pyarrow",
    )
    for block in probed.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from block.to_pylist()


@functools.lru_cache(maxsize=1)
def _decoder(timeout_s: float) -> DecodeProcess:
    """The decoding process that all tasks of one Ray worker process share."""
    return DecodeProcess(timeout_s)


def _probe_block(block: pa.Table, timeout_s: float, limits: Limits) -> pa.Table:
    rows = []
    for row in block.to_pylist():
        try:
            info = _decoder(timeout_s).probe(row["path"], row["video_id"], limits)
            rows.append({**row, **vars(info), "reason": None})
        except VideoDecodeError as error:
            failure = {"reason": error.reason, "lasting": error.lasting, "detail": error.detail}
            rows.append({**row, **(vars(error.part) if error.part is not None else {}), **failure})
    return pa.Table.from_pylist(rows, schema=PROBED)

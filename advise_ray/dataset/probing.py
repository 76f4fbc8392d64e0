"""Probes files with Ray Data on all CPUs. A separate decoding process reads each file to its end."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray.data

from advise_ray.backend import session
from advise_ray.backend.reservation import await_resources
from advise_ray.backend.shares import Shares
from advise_ray.config import TrainConfig
from advise_ray.errors import VideoDecodeError
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.manifest import SCHEMA
from advise_ray.video.probe import Limits

FILES_PER_BLOCK = 8
"""A small number, so that the progress bar moves often and one last block does not keep a single CPU busy for long."""
TIMEOUT_S = 600.0
"""Maximum time in seconds for reading one file to its end."""

_LISTED = ("label", "class_name", "split", "official_splits", "group", "start_frame", "end_frame", "damage")
_OUTCOME = {
    "reason": pa.string(),
    "detail": pa.string(),
    "lasting": pa.bool_(),
    "readable_start": pa.int64(),
    "readable_end": pa.int64(),
}
PROBED = pa.schema(
    [*(field for field in SCHEMA if field.name not in _LISTED), *(pa.field(*item) for item in _OUTCOME.items())]
)
"""Columns of a probed file. `reason`: why the file cannot be read; `lasting`: whether another try would fail too. The
frames `readable_start` to `readable_end` - 1 of a damaged video can be read."""

Row = dict[str, Any]


def probe_all(files: Sequence[Mapping[str, Any]], timeout_s: float, limits: Limits) -> Iterator[Row]:
    """Probe files (`video_id`, `path`, `bytes`, `modified_ns`) and yield `PROBED` rows as they finish, in any order."""
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

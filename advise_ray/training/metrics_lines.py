"""Reads `metrics.jsonl`, which has one line for each step and one for each epoch of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from advise_ray.storage import jsonl


class MetricsLine(TypedDict):
    """One line of `metrics.jsonl`.

    Attributes:
        time_s: Unix time.
        kind: `step`, with `train/loss`, `train/top1`, `optim/lr`, `optim/grad_norm` of one step; or `epoch`, with
            `train/epoch_loss`, `train/epoch_top1`, `val/…` and `rate/…`.
        epoch: number of the epoch, from 0.
        step: optimizer steps done, from 1.
        values: metric → value.
    """

    time_s: float
    kind: Literal["step", "epoch"]
    epoch: int
    step: int
    values: dict[str, float]


def read(path: Path) -> list[MetricsLine]:
    """All complete lines of a file. Empty if the file does not exist."""
    return [_typed(line) for line in jsonl.read_lines(path)]


def of_kind(lines: list[MetricsLine], kind: Literal["step", "epoch"]) -> list[MetricsLine]:
    """Select the lines of steps, or those of epochs."""
    return [line for line in lines if line["kind"] == kind]


def follow(path: Path) -> Iterator[list[MetricsLine]]:
    """Like `storage.jsonl.follow`, with typed lines."""
    for lines in jsonl.follow(path):
        yield [_typed(line) for line in lines]


def _typed(line: dict[str, Any]) -> MetricsLine:
    """Add `kind` to lines of runs that an earlier version of this package started."""
    kind = "step" if "train/loss" in line["values"] else "epoch"
    return cast("MetricsLine", {"kind": kind, **line})

"""Reports what a run waits for, in a line that is updated during the wait. Imports quickly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advise_ray.errors import ResourcesError

if TYPE_CHECKING:
    from advise_ray.backend.nodes import View
    from advise_ray.backend.processes import Shares


def _show_nobody(_line: str | None) -> None:
    pass


show: Callable[[str | None], None] = _show_nobody
"""Function that shows the user what the run waits for; its argument is None when the wait ends. The command sets it."""


@dataclass
class Waiting:
    """What a run waits for, as a line for the user, and since when (Unix time)."""

    line: str
    since_s: float

    def __str__(self) -> str:
        return f"{self.line}, {clock(time.time() - self.since_s)}"


def describe_wait(shares: Shares, view: View) -> str:
    """A line that says what the run waits for, and why."""
    gpus = shares.use_gpu and sum(gpus for _, gpus in view.free.values()) < shares.num_workers
    total, free = (sum(node[gpus] for node in there.values()) for there in (view.total, view.free))
    reasons = [f"{total - free:g} held by other jobs"] if total > free else []
    reasons += [f"{count} node{'s' * (count != 1)} of type {name} starting" for name, count in view.starting.items()]
    reasons += [view.failed] if view.failed else []
    line = f"waiting for {shares}: there are {free:g} of {total:g} {'GPUs' if gpus else 'CPUs'} free"
    return line + (f" ({', '.join(reasons)})" if reasons else "")


def clock(seconds: float) -> str:
    """Format a duration, such as `1:20` or `2:01:20`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def refuse_longer(waiting: Waiting, max_wait_s: float) -> None:
    """Raise ResourcesError if the wait has lasted longer than `max_wait_s`. With 0 there is no limit."""
    if max_wait_s and time.time() - waiting.since_s > max_wait_s:
        raise ResourcesError(f"{waiting}, longer than train.max_wait_s={max_wait_s:g}")

"""Reports what a run waits for, in a line that is updated during the wait. Imports quickly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from advise_ray.errors import ResourcesError


def _show_nobody(_line: str | None) -> None:
    pass


show: Callable[[str | None], None] = _show_nobody
"""Shows the user what the run waits for; called with None when the wait ends. The `advise-ray` command sets it."""


@dataclass
class Waiting:
    """What a run waits for, as a line for the user, and since when (Unix time)."""

    line: str
    since_s: float

    def __str__(self) -> str:
        return f"{self.line}, {clock(time.time() - self.since_s)}"


def clock(seconds: float) -> str:
    """Format a duration, such as `1:20` or `2:01:20`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def refuse_longer(waiting: Waiting, max_wait_s: float) -> None:
    """Raise ResourcesError if the wait has lasted longer than `max_wait_s`. With 0 there is no limit."""
    if max_wait_s and time.time() - waiting.since_s > max_wait_s:
        raise ResourcesError(f"{waiting}, longer than train.max_wait_s={max_wait_s:g}")

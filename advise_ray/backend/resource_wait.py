"""What a run waits for: a line that is renewed while the wait lasts. Light to import."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from advise_ray.errors import ResourcesError


def _show_nobody(_line: str | None) -> None:
    pass


show: Callable[[str | None], None] = _show_nobody
"""Shows people what is waited for; called with None when the wait has ended. The `advise-ray` command sets it."""


@dataclass
class Waiting:
    """What somebody waits for, as a line for people."""

    line: str
    since_s: float

    def __str__(self) -> str:
        return f"{self.line}, {clock(time.time() - self.since_s)}"


def clock(seconds: float) -> str:
    """As `1:20`, or `2:01:20`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def refuse_longer(waiting: Waiting, max_wait_s: float) -> None:
    """Raise ResourcesError where something was waited for so long; 0: for ever."""
    if max_wait_s and time.time() - waiting.since_s > max_wait_s:
        raise ResourcesError(f"{waiting}, longer than train.max_wait_s={max_wait_s:g}")

"""A notice is used: at SIGTERM, or Ctrl-C once, what is under way is saved before the command ends.

The command's process takes the signal, and leaves word at Ray's head, where those who work for it ask, on any node: in
the key-value store that every Ray has, since a new file on a network file system is seen late by other hosts.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import ray
from ray.exceptions import RpcError
from ray.experimental import internal_kv

NAMESPACE = b"advise-ray-notice"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
log = logging.getLogger("advise_ray")


class Notice:
    """Of work that has a name; see `awaited`.

    Attributes:
        given: a signal has come; who sees it passes it on, or ends what it does.
    """

    def __init__(self, name: str, grace_s: float, would_lose: Callable[[], bool]) -> None:
        self.name, self.grace_s, self.would_lose = name, grace_s, would_lose
        self.given = self._passed_on = False

    def pass_on(self) -> None:
        """Leave word for those who work; called until a head that is away has taken it."""
        with contextlib.suppress(RpcError):
            if not self._passed_on:
                internal_kv._internal_kv_put(self.name, b"end", namespace=NAMESPACE)
                self._passed_on = True

    def _on_signal(self, *_: int | FrameType | None) -> None:
        if self.given or not self.grace_s or not self.would_lose():
            raise KeyboardInterrupt
        self.given = True
        signal.setitimer(signal.ITIMER_REAL, self.grace_s)
        with contextlib.suppress(RuntimeError):  # it hit the stream in the middle of a line
            log.warning("saving, for %g s at most, and then ending; once more, and it ends at once", self.grace_s)


@contextlib.contextmanager
def awaited(name: str, grace_s: float, would_lose: Callable[[], bool]) -> Iterator[Notice]:
    """Take signals as a notice meanwhile; in another thread than the main one, which gets none, nothing changes.

    Args:
        name: of the work, unlike any other on this Ray.
        would_lose: asked at a signal: whether there is something to save. Where there is not, the signal ends the work
            at once, as it does where nothing awaits it.

    Raises:
        KeyboardInterrupt: at a second signal, and `grace_s` after the first.
    """
    notice = Notice(name, grace_s, would_lose)
    internal_kv._internal_kv_del(name, namespace=NAMESPACE)  # of one with this name that ended before
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    before = {number: signal.signal(number, notice._on_signal) for number in (*SIGNALS, signal.SIGALRM)}
    try:
        yield notice
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def was_given(name: str) -> bool:
    """Whether the work of this name is to save and end; asked on any node, and False where no Ray answers."""
    with contextlib.suppress(RpcError):
        return ray.is_initialized() and internal_kv._internal_kv_exists(name, namespace=NAMESPACE)
    return False

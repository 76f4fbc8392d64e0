"""Graceful shutdown: at SIGTERM, or at the first Ctrl-C, work in progress is saved before the command ends.

The command's process receives the signal and writes a notice to the key-value store on Ray's head. The workers read it
there, from any node. A file would not do: on a network file system other hosts see a new file late.
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
    """The shutdown notice of a named piece of work; see `awaited`.

    Attributes:
        given: a signal has arrived. The code that sees this calls `pass_on`, or ends its work.
    """

    def __init__(self, name: str, grace_s: float, would_lose: Callable[[], bool]) -> None:
        self.name, self.grace_s, self.would_lose = name, grace_s, would_lose
        self.given = self._passed_on = False

    def pass_on(self) -> None:
        """Write the notice for the workers. The caller repeats this call until Ray's head has accepted the notice."""
        with contextlib.suppress(RpcError):
            if not self._passed_on:
                internal_kv._internal_kv_put(self.name, b"end", namespace=NAMESPACE)
                self._passed_on = True

    def _on_signal(self, *_: int | FrameType | None) -> None:
        if self.given or not self.grace_s or not self.would_lose():
            raise KeyboardInterrupt
        self.given = True
        signal.setitimer(signal.ITIMER_REAL, self.grace_s)
        with contextlib.suppress(RuntimeError):  # the signal interrupted another write to the same stream
            log.warning("saving for at most %g s, then ending; a second signal ends the command at once", self.grace_s)


@contextlib.contextmanager
def awaited(name: str, grace_s: float, would_lose: Callable[[], bool]) -> Iterator[Notice]:
    """Treat SIGINT and SIGTERM as a shutdown notice inside the `with` block.

    Signals arrive only in the main thread. In another thread nothing changes.

    Args:
        name: name of the work, unique on this Ray.
        grace_s: seconds from the first signal until the work is interrupted. With 0 the first signal interrupts.
        would_lose: called at a signal; whether there is something to save. If not, the signal interrupts the work at
            once.

    Raises:
        KeyboardInterrupt: at a second signal, and `grace_s` after the first.
    """
    notice = Notice(name, grace_s, would_lose)
    internal_kv._internal_kv_del(name, namespace=NAMESPACE)  # the notice of earlier work with this name
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # e.g. by a shell's `&`
    before = {number: signal.signal(number, notice._on_signal) for number in (*heeded, signal.SIGALRM)}
    try:
        yield notice
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def was_given(name: str) -> bool:
    """Whether the work of this name must save and end. Works on any node; False if Ray does not answer."""
    with contextlib.suppress(RpcError):
        return ray.is_initialized() and internal_kv._internal_kv_exists(name, namespace=NAMESPACE)
    return False

"""What Ctrl-C and SIGTERM do to a command, except where `backend.shutdown_notice` saves work first."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

from advise_ray.errors import InterruptedRunError


def heed() -> None:
    """Raise KeyboardInterrupt at the first signal, and end the process at the second, from now on."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else a shell has told us to ignore Ctrl-C
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(*_: Any) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, _end_at_once)  # also if other code swallows the exception
    raise KeyboardInterrupt


def _end_at_once(*_: Any) -> NoReturn:
    os.write(2, b"interrupted\n")
    if session := sys.modules.get("advise_ray.backend.session"):  # not imported here, because it imports Ray
        session.end_unfinished_start()
    os._exit(InterruptedRunError.exit_code)

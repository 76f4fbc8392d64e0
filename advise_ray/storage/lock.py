"""Locks files, so that only one process at a time works in a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from advise_ray.storage.retry import patiently

POLL_S = 0.05


@contextlib.contextmanager
def hold_lock(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file inside the `with` block. The file is created; its folder must exist.

    The lock ends with the process.

    Args:
        wait_s: how long to wait for another process.

    Raises:
        BlockingIOError: another process still holds the lock.
        OSError: the file cannot be opened, or its file system has no locks.
    """
    descriptor = patiently(lambda: os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
    try:
        deadline_s = time.monotonic() + wait_s
        while not _taken(descriptor):
            if time.monotonic() >= deadline_s:
                raise BlockingIOError(errno.EAGAIN, "another process holds the lock", str(path))
            time.sleep(POLL_S)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True

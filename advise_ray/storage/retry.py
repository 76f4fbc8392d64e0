"""Writing to storage that goes away for a while: a network file system whose server restarts."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger("advise_ray")

T = TypeVar("T")
PATIENCE_S = 90.0
PAUSE_S = 1.0
LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""What waiting does not mend."""


def patiently(attempt: Callable[[], T]) -> T:
    """What `attempt` returns; where the system cannot do it, it is tried again, for a minute and a half.

    Args:
        attempt: to be done again from its beginning, whatever became of it.

    Raises:
        OSError: the last one; at once where the disk is full or not to be written.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return attempt()
        except OSError as error:
            if error.errno in LASTING or time.monotonic() > deadline_s:
                raise
            log.warning("storage is away (%s: %s); trying again", error.filename, error.strerror)
            time.sleep(PAUSE_S)

"""Retries access to storage that is temporarily unavailable, such as a network file system whose server restarts."""

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
"""Errors that are permanent, so that retries do not help."""


def patiently(attempt: Callable[[], T]) -> T:
    """Call `attempt` and return its result. After an OSError, retry for PATIENCE_S seconds.

    Args:
        attempt: A function that can be called again if it has failed halfway.

    Raises:
        OSError: The last error. It is raised at once if the disk is full or access is denied.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return attempt()
        except OSError as error:
            if error.errno in LASTING or time.monotonic() > deadline_s:
                raise
            log.warning("storage is not available (%s: %s); retrying", error.filename, error.strerror)
            time.sleep(PAUSE_S)

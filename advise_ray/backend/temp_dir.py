"""Chooses the directory of our own Ray's files: its sockets, logs, and objects that do not fit in memory."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from advise_ray.errors import RayError

log = logging.getLogger("advise_ray")

LONGEST_BYTES = 39
"""Linux limits the path of a socket to 107 bytes. Ray's longest is
`DIR/session_2030-01-01_00-00-00_000000_4194304/sockets/dash_MetricsHead`."""
LEAST_FREE_BYTES = 16 << 20
"""Ray writes some megabytes of logs when it starts."""
ELSEWHERE = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (Ray makes a directory of its own there)


def choose() -> str:
    """Return an absolute path that Ray can use: below `RAY_TMPDIR`, else `TMPDIR`, else in the system's own places.

    Raises:
        RayError: No place can be used.
    """
    wanted = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    places = [os.environ[wanted]] if wanted else []
    unfit: dict[str, str] = {}
    for place in dict.fromkeys([*places, *ELSEWHERE]):
        for folder in _folders(place):
            reason = _unfitness(folder)
            if reason is None:
                if wanted and place not in places:
                    log.warning("note: Ray's files are in %s, because %s is %s", folder, wanted, unfit[places[0]])
                return str(folder)
            unfit.setdefault(place, f"{place}, which {reason}")
    raise RayError(
        f"Ray has no directory for its files: {'; '.join(unfit.values())}; free some space, or set RAY_TMPDIR to a "
        f"directory with a path of at most {LONGEST_BYTES - len('/ray')} bytes"
    )


def _folders(place: str) -> Iterator[Path]:
    """Ray's usual directory, which all users share, and one of this user, if another user has closed the first."""
    yield Path(place).absolute() / "ray"
    yield Path(place).absolute() / f"ray-{os.getuid()}"


def _unfitness(folder: Path) -> str | None:
    """Return why Ray cannot use a directory, or None. A place that does not exist is not created."""
    if len(os.fsencode(folder)) > LONGEST_BYTES:
        return "is too long for Ray's sockets"
    try:
        with tempfile.TemporaryFile(dir=folder if folder.exists() else folder.parent) as file:
            os.posix_fallocate(file.fileno(), 0, LEAST_FREE_BYTES)
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    return None

"""The place of a cache, before anything is known of its features: whether it is one, its parts, and who writes."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from advise_ray.errors import UsageError
from advise_ray.storage import remote


def is_cache(location: str) -> bool:
    """Whether a job has begun there.

    Raises:
        UsageError: something else is there.
    """
    if remote.is_url(location):
        try:
            remote.read_file(remote.join(location, "cache.json"))
        except OSError:
            return False
        return True
    path = Path(location)
    if (path / "cache.json").is_file():
        return True
    if path.exists() and (not path.is_dir() or any(entry.name != ".lock" for entry in path.iterdir())):
        raise UsageError(f"--out: {path} is there, and is not a feature cache; name a new folder")
    return False


def sweep(location: str) -> None:
    """Remove what a killed job had half written."""
    if not remote.is_url(location):
        for path in Path(location).glob(".*.partial"):
            path.unlink()


def part_names(location: str) -> list[str]:
    """All that have been written, whether an index has them or not."""
    return sorted(file.path for file in remote.list_files(location) if file.path.startswith("part-"))


@contextlib.contextmanager
def lock(location: str) -> Iterator[None]:
    """One job a folder; the lock goes with the process. Object stores have no locks: two jobs there do work twice.

    Raises:
        UsageError: another job is at it, or the folder cannot be made.
    """
    if remote.is_url(location):
        yield
        return
    path = Path(location) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("w")
    except OSError as error:
        raise UsageError(f"--out: {location}: {error.strerror}; name a folder that can be written") from None
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"--out: another `advise-ray cache` is writing to {location}; wait for it") from None
        yield

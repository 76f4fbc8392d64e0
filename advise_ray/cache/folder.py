"""The folder of a cache: checks whether it is one, lists its parts, and locks it for writing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from advise_ray.errors import UsageError
from advise_ray.storage import remote
from advise_ray.storage.lock import hold_lock


def is_cache(location: str) -> bool:
    """Whether the folder has a cache, complete or not.

    Raises:
        UsageError: the path exists, but is not a cache.
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
        raise UsageError(f"--out: {path} exists, but is not a feature cache; name a new folder")
    return False


def sweep(location: str) -> None:
    """Remove incomplete files of a killed job."""
    if not remote.is_url(location):
        for path in Path(location).glob(".*.partial"):
            path.unlink()


def part_names(location: str) -> list[str]:
    """The names of all complete parts, also of those that are not in the index."""
    return sorted(file.path for file in remote.list_files(location) if file.path.startswith("part-"))


@contextlib.contextmanager
def lock(location: str) -> Iterator[None]:
    """Lock the folder, so that only one job writes to it. The lock ends with the process.

    Object stores have no locks: two jobs that write to the same cache there do the same work twice.

    Raises:
        UsageError: another job is writing to the folder, or the folder cannot be created.
    """
    if remote.is_url(location):
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            Path(location).mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold_lock(Path(location) / ".lock"))
        except BlockingIOError:
            raise UsageError(f"--out: another `advise-ray cache` is writing to {location}; wait for it") from None
        except OSError as error:
            raise UsageError(f"--out: {location}: {error.strerror}; name a writable folder") from None
        yield

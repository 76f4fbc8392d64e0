"""Writes files atomically, and finds out whether files exist where storage may be missing."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from advise_ray.errors import UsageError
from advise_ray.storage.retry import patiently

Content = str | bytes | memoryview | Callable[[BinaryIO], object]
"""What a file gets: its text, its bytes, or a function that writes them, which is called again for each retry."""


def require_folder(path: Path) -> None:
    """Raise FileNotFoundError if a folder is missing, so that storage that is not mounted does not look empty."""
    if not path.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def exists(path: Path) -> bool:
    """Whether a file or folder exists. Its parent must exist, so that storage that is not mounted does not look empty.

    Raises:
        OSError: the parent does not exist or cannot be read.
    """
    return path.name in os.listdir(path.parent)  # noqa: PTH208 (an error of `iterdir` would come at its first item)


def refuse_unwritable(path: Path, option: str) -> None:
    """Raise UsageError unless a file can be written at `path`, in folders that may still be missing. Creates nothing.

    Work that takes long calls this before it starts.

    Args:
        option: name of the command's option or key that gave the path, for the message.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{option}: cannot write {path}: {error.strerror}") from None


def write_whole(path: Path, content: Content) -> None:
    """Write a file atomically: a reader sees the old or the new content, never a part. If a step fails, repeat all.

    The folder must exist.

    Raises:
        OSError: the disk is full, access is denied, or the storage did not answer for PATIENCE_S. The old file stays.
    """
    patiently(lambda: write_once(path, content))


def write_once(path: Path, content: Content) -> None:
    """Like `write_whole`, but with a single attempt, for callers that do not wait or that retry themselves."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_synced(partial, content)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write_synced(path: Path, content: Content) -> None:
    """Write a file and wait until it is on the disk, so that a power cut cannot leave it empty after a rename.

    Raises:
        OSError: it could not be written.
    """
    with path.open("wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def size_bytes(path: Path) -> int:
    """Bytes of a file; 0 if it does not exist or its storage does not answer."""
    try:
        return path.stat().st_size
    except OSError:
        return 0

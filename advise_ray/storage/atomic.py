"""Writes files atomically, and checks that folders exist."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from advise_ray.errors import UsageError


def require_folder(path: Path) -> None:
    """Raise FileNotFoundError if a folder is missing, so that storage that is not mounted does not look empty."""
    if not path.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


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


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the old text or the new text, never a part, also if the disk is full.

    Raises:
        OSError: The file cannot be written. No partial file is left.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_synced(path: Path, content: bytes | memoryview) -> None:
    """Write a file and wait until it is on the disk, so that a power cut cannot leave it empty after a rename.

    Raises:
        OSError: it could not be written.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def size_bytes(path: Path) -> int:
    """Bytes of a file; 0 if it does not exist or its storage does not answer."""
    try:
        return path.stat().st_size
    except OSError:
        return 0

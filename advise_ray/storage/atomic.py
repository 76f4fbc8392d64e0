"""Files that appear whole, and folders that must exist."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def require_folder(path: Path) -> None:
    """Raise FileNotFoundError if a folder is missing, so that storage that is away is not taken for empty."""
    if not path.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def write_whole(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old text or the new one, never a part, also when the disk is full.

    Raises:
        OSError: it could not be written, and nothing is left of it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text)
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

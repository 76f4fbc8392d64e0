"""Small files that others read while they are written: one JSON line after the other, or a whole text at a time."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any


def require_folder(path: Path) -> None:
    """Raise FileNotFoundError where a folder is missing: storage that is away is not taken for empty, or made anew."""
    if not path.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines as far as they are whole; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def write_whole(path: Path, text: str) -> None:
    """Put a text in a file's place at once: for who reads it, and on a full disk, it is whole or as it was before.

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

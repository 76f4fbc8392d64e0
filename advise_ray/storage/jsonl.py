"""Reads JSON Lines files, also while another process appends to them, and appends to them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from advise_ray.storage.atomic import exists, size_bytes
from advise_ray.storage.retry import patiently


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return all complete lines of a JSON Lines file; the result is empty if the file does not exist.

    Raises:
        OSError: the folder of the file does not exist, or the file cannot be read.
    """
    return _parsed(path.read_bytes()) if exists(path) else []


def reopen(path: Path) -> list[dict[str, Any]]:
    """Like `read_lines`, but also cut off an incomplete last line, so that `append` can follow."""
    if not exists(path):
        return []
    content = path.read_bytes()
    whole_bytes = content.rfind(b"\n") + 1
    if whole_bytes != len(content):
        os.truncate(path, whole_bytes)
    return _parsed(content)


def append(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append lines, and wait until they are on the disk. If a step fails, all of them are written again, each once.

    Only one process may append to a file at a time. The folder must exist.

    Raises:
        OSError: the disk is full, access is denied, or the storage did not answer for PATIENCE_S.
    """
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    before = patiently(lambda: path.stat().st_size if exists(path) else None)

    def write() -> None:
        with path.open("wb" if before is None else "r+b") as file:  # "r+b" never makes a new file in an empty folder
            file.truncate(before or 0)  # removes an incomplete earlier attempt
            file.seek(before or 0)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    patiently(write)


def follow(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield, at each `next`, the lines that were completed since the last one. It starts at the end of the file.

    While the file does not exist, or its storage does not answer, it yields no lines.
    """
    offset = size_bytes(path)
    while True:
        whole = newline = b""
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        offset += len(whole) + len(newline)
        yield [json.loads(line) for line in whole.splitlines()]


def _parsed(content: bytes) -> list[dict[str, Any]]:
    """The complete lines of a file's content."""
    return [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]

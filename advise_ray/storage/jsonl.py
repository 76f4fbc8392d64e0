"""Reads JSON Lines files, also while another process appends to them. The last line may be incomplete."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from advise_ray.storage.atomic import size_bytes


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return all complete lines of a JSON Lines file; the result is empty if the file does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def reopen(path: Path) -> list[dict[str, Any]]:
    """Return all complete lines, and cut off an incomplete last line, so that a new writer can append lines."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


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

"""Reads JSON Lines files, also while another process appends to them. The last line may be incomplete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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
    """Yield, at each `next`, the lines that were completed since the last one. It starts at the end of the file."""
    offset = path.stat().st_size if path.exists() else 0
    while True:
        lines: list[dict[str, Any]] = []
        if path.exists():
            with path.open("rb") as file:
                file.seek(offset)
                whole, newline, _ = file.read().rpartition(b"\n")
            offset += len(whole) + len(newline)
            lines = [json.loads(line) for line in whole.splitlines()]
        yield lines

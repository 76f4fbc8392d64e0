"""The listing of a data set: the entries of its lists, checked against the files that exist."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advise_ray.errors import UsageError
from advise_ray.storage.transports import StoredFile

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
PACKED = {
    b"\x1f\x8b": "compressed; unpack it with gunzip",
    b"PK\x03\x04": "a zip archive or a workbook; save it as CSV",
}
"""The first bytes of files that people take for text."""


@dataclass(frozen=True)
class ListedVideo:
    """One entry of a list. `path` is relative to the root of the videos and uses `/`. Class and split may be unknown.

    Attributes:
        official_splits: The entry's split (train, test, …) in each official split of a benchmark that has several, in
            their order.
        group: Name of the group. The videos of a group are held out together.
        start_frame: First frame that belongs to the label, if only a part of the file does.
        end_frame: The frame after the last one that belongs to the label.
    """

    path: str
    class_name: str | None = None
    split: str | None = None
    start_frame: int | None = None
    end_frame: int | None = None
    official_splits: tuple[str | None, ...] | None = None
    group: str | None = None


@dataclass
class Listing:
    """The entries of a data set's lists, checked against the files that exist."""

    classes: list[str]
    """Class names in the order of their labels."""
    found: list[ListedVideo] = field(default_factory=list)
    missing: list[ListedVideo] = field(default_factory=list)
    """Listed videos whose file does not exist."""
    problems: dict[str, str] = field(default_factory=dict)
    """Maps `file:line` (for JSON: `file:entry N`) to what is wrong there."""
    stored: dict[str, StoredFile] = field(default_factory=dict)
    """Maps each path to its file's size and time."""
    other_files: dict[str, int] = field(default_factory=dict)
    """Number of files of each kind that were ignored because they are not videos (only for folders)."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Maps each skipped path to the reason: an unreadable folder, an audio file, or a name that is not UTF-8."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user."""


def read_text(path: Path, what: str) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte order mark, as PowerShell writes it. The mark is removed.

    Raises:
        UsageError: The file cannot be read, or is not such a text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"--annotations: cannot read {what}, {path}: {error.strerror}") from None
    for first_bytes, kind in PACKED.items():
        if content.startswith(first_bytes):
            raise UsageError(f"--annotations: {path} is {kind}")
    try:
        text = content.decode("utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without a mark is valid UTF-8 with NUL characters
        raise UsageError(f"--annotations: {path} is not a text file in UTF-8; save it as one")
    return text


def lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    """Return pairs of line number and line. Lines are stripped, and empty lines are left out."""
    text = read_text(path, what)
    return ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def read_json(path: Path, what: str, kind: type) -> Any:
    """Read a file with a JSON list or object.

    Raises:
        UsageError: The file cannot be read, is not JSON, or contains another kind of value.
    """
    try:
        value = json.loads(read_text(path, what))
    except json.JSONDecodeError as error:
        raise UsageError(f"--annotations: {path}:{error.lineno} is not JSON: {error.msg}") from None
    if not isinstance(value, kind):
        raise UsageError(
            f"--annotations: {path} does not contain a JSON {'list' if kind is list else 'object'} for {what}"
        )
    return value

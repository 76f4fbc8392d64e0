"""What the lists of a data set say, checked against the files that are there."""

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


@dataclass(frozen=True)
class ListedVideo:
    """One entry of a list. `path` is relative to the videos' root, with `/`; label and split may be unknown.

    `official_splits` has the splits of all of a benchmark's official ones, the first one first, where it has several.
    `group` names what is held out together.
    `start_frame` and `end_frame` (the first one after) are set where only that part of the file belongs to the label.
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
    """What a data set's lists say, checked against the files that are there."""

    classes: list[str]
    """Class names in the order of their labels."""
    found: list[ListedVideo] = field(default_factory=list)
    missing: list[ListedVideo] = field(default_factory=list)
    """Listed videos without a file."""
    problems: dict[str, str] = field(default_factory=dict)
    """`file:line` (of JSON: `file:entry`) → what is wrong with it."""
    stored: dict[str, StoredFile] = field(default_factory=dict)
    """Path → the file."""
    other_files: dict[str, int] = field(default_factory=dict)
    """Of a folder: how many files of each kind were passed over as no videos."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Path → why it was not looked into: a folder that may not be read, a sound, a name that is not UTF-8."""
    notes: list[str] = field(default_factory=list)
    """What a person should know before the list is used."""


def read_text(path: Path, what: str) -> str:
    """A list as text, without a byte order mark: UTF-8, or UTF-16 with its mark, as Windows' shell writes.

    Raises:
        UsageError: it cannot be read, or is not such text.
    """
    try:
        content = path.read_bytes()
        return content.decode("utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig")
    except OSError as error:
        raise UsageError(f"--annotations: cannot read {what}, {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--annotations: {path} is not a text file in UTF-8; save it as one") from None


def lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    """Line numbers and lines, without line ends, surrounding space and empty lines."""
    text = read_text(path, what)
    return ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def read_json(path: Path, what: str, kind: type) -> Any:
    """A JSON list or object.

    Raises:
        UsageError: it cannot be read, is not JSON, or another kind of value.
    """
    try:
        value = json.loads(read_text(path, what))
    except json.JSONDecodeError as error:
        raise UsageError(f"--annotations: {path}:{error.lineno} is not JSON: {error.msg}") from None
    if not isinstance(value, kind):
        raise UsageError(f"--annotations: {path} holds no JSON {'list' if kind is list else 'object'} for {what}")
    return value

"""Lists and folders of empty files, for tests of their readers."""

from __future__ import annotations

from pathlib import Path

import pytest

from advise_ray.errors import UsageError

Lists = dict[str, str | bytes]


def place(folder: Path, *paths: str) -> Path:
    """Empty files: readers of lists do not open videos."""
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def write(folder: Path, lists: Lists) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in lists.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def message(read, *arguments: object) -> str:
    with pytest.raises(UsageError) as caught:
        read(*arguments)
    return str(caught.value)

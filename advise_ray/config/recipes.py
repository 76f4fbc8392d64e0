"""The recipes that come with the package: `jobs/*.yaml`, by file or by name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from advise_ray.errors import UsageError

_PACKAGE = Path(__file__).parents[1]
FOLDERS = (_PACKAGE / "jobs", _PACKAGE.parent / "jobs")
"""In an installed wheel, and in a checkout."""


def find(name: str) -> Path:
    """The recipe file: a path as it is, else a shipped recipe of that name (`quickstart`).

    Raises:
        UsageError: there is neither.
    """
    if (path := Path(os.path.expanduser(name))).is_file():  # noqa: PTH111 (Path's own raises for an unknown user)
        return path
    known = shipped()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
    raise UsageError(f"--config: no file {name}, and no shipped recipe of that name; {hint}")


def shipped() -> dict[str, Path]:
    """Name → file of all recipes of the package."""
    return {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.yaml"))}

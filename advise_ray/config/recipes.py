"""Finds recipes: a file, or the name of a recipe that the package ships (`jobs/*.yaml`)."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from advise_ray.errors import UsageError

_PACKAGE = Path(__file__).parents[1]
FOLDERS = (_PACKAGE / "jobs", _PACKAGE.parent / "jobs")
"""Where the shipped recipes are: in an installed wheel, and in a checkout."""


def find(name: str) -> Path:
    """Return the path of a recipe: the file `name`, or else the shipped recipe `name` (such as `quickstart`).

    Raises:
        UsageError: There is no such file and no such shipped recipe.
    """
    if (path := Path(os.path.expanduser(name))).is_file():  # noqa: PTH111 (Path's own raises for an unknown user)
        return path
    known = shipped()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the shipped recipes are {', '.join(sorted(known))}"
    raise UsageError(f"--config: no file {name}, and no shipped recipe of that name; {hint}")


def shipped() -> dict[str, Path]:
    """Map the name of each shipped recipe to its file."""
    return {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.yaml"))}

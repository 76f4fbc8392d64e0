"""The layout of the package: private API has one home each, file names are unique, files are short."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "advise_ray"
FILES = sorted(PACKAGE.rglob("*.py"))
HOMES = {"ray": "backend", "mlflow": "tracking", "timm": "model", "open_clip": "model"}
COMMANDS = {"data.py", "decode.py", "model.py", "search.py"}
"""Named as the command is, or as the section of the configuration."""
MOST_LINES, MEDIAN_LINES = 300, 150


def private_names(path: Path) -> Iterator[str]:
    """Dotted names of third-party packages with a part that begins with an underscore, or is internal."""
    for node in ast.walk(ast.parse(path.read_text())):
        dotted = []
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            dotted = [ast.unparse(node)]
        for name in dotted:
            package, *parts = name.split(".")
            if package in HOMES and any(part.startswith("_") and not part.startswith("__") for part in parts):
                yield name


@pytest.mark.parametrize("package", HOMES)
def test_private_names_stay_in_one_package(package: str) -> None:
    used = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in FILES
        for name in private_names(path)
        if name.split(".")[0] == package
    }
    assert {use for use in used if not use[0].startswith(f"{HOMES[package]}/")} == set()


def test_each_file_has_a_name_of_its_own() -> None:
    names = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert {name for name, count in names.items() if count > 1} == COMMANDS


def test_files_are_short() -> None:
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
    assert sorted(lines.values())[len(lines) // 2] <= MEDIAN_LINES


def test_each_package_says_what_it_is_for() -> None:
    silent = [
        path.parent.name
        for path in FILES
        if path.name == "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []

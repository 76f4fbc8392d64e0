"""Linters and type checkers as tests, so that one command runs everything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKS = ["mypy", "lint-imports", "ruff check .", "ruff format --check .", "hadolint cluster/Dockerfile"]


def start(check: str) -> subprocess.Popen[str]:
    command, *arguments = check.split()
    path = Path(sys.executable).parent / command
    return subprocess.Popen([path, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All of them, side by side."""
    processes = {check: start(check) for check in CHECKS}
    yield processes
    for process in processes.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("check", CHECKS)
def test_check_passes(running: dict[str, subprocess.Popen[str]], check: str) -> None:
    said, _ = running[check].communicate()
    assert running[check].returncode == 0, said

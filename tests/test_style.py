"""The checks that are not tests, so that one command runs everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKS = ["ruff check .", "ruff format --check .", "mypy", "lint-imports"]


@pytest.mark.parametrize("check", CHECKS)
def test_check_passes(check: str) -> None:
    command, *arguments = check.split()
    result = subprocess.run(
        [Path(sys.executable).parent / command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr

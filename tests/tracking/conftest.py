"""Fixtures of the tests of tracking."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One SQLite store for all tests that need no fresh one, in a folder with a space in its name."""
    return tmp_path_factory.mktemp("the runs")

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "jobs" / "tutorial.py"


@pytest.mark.full
def test_the_tutorial_runs_and_leaves_its_pictures(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, SCRIPT], cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True, timeout=1800
    )
    pictures = {path.stem for path in (tmp_path / "tutorial").glob("*.png")}
    assert pictures == {"rates", "curves", "neighbours", "prediction"}
    assert re.search(r"^accuracy [01]\.\d+, chance 0.125$", result.stdout, flags=re.MULTILINE)

"""The predictions in RESULTS are what the script prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_results_have_the_predictions_as_they_are_printed() -> None:
    command = [sys.executable, "jobs/predict_scale.py", "--rates", "jobs/rates/one_h100.yaml"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert printed in (ROOT / "jobs" / "RESULTS.md").read_text()

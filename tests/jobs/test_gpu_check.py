"""Every check of the script for GPUs runs on a CPU, with tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKS = (
    *("no_waiting", "feed_is_right", "cached_step", "live_step", "paper"),
    *("live_run", "image_model", "faster_cached_step", "table"),
)


def check(out: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "jobs/gpu_check.py", "--out", str(out), *options]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=os.environ | environment, check=False
    )


@pytest.mark.full
def test_every_check_runs_and_is_recorded(tmp_path: Path) -> None:
    done = check(tmp_path / "found.json", "--device", "cpu", "--quick", "--budget-s", "900")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.keys() >= {"machine", "versions", "driver", "date", *CHECKS}
    assert [name for name in CHECKS if "error" in found[name]] == []
    assert found["no_waiting"]["passed"]
    assert found["feed_is_right"]["passed"]
    assert len(found["paper"]["holds"]) == 3


@pytest.mark.full
def test_no_check_begins_after_the_budget_and_each_error_is_recorded(tmp_path: Path) -> None:
    options = ("--device", "cpu", "--quick", "--only", "no_waiting", "--only", "live_step")
    assert check(tmp_path / "late.json", *options, "--budget-s", "-1").returncode == 0
    late = json.loads((tmp_path / "late.json").read_text())
    assert "budget" in late["no_waiting"]["skipped"]
    assert "budget" in late["live_step"]["skipped"]
    assert check(tmp_path / "gpu.json", CUDA_VISIBLE_DEVICES="").returncode == 2

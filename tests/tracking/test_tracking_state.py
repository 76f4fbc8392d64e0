"""`tracking.json`, as written and read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from advise_ray.tracking.tracking_state import EndOfRun, TrackingState


def test_what_is_written_is_read(tmp_path: Path) -> None:
    state = TrackingState.read(tmp_path)
    assert state.run_id is None
    end = EndOfRun("FAILED", 1.5, ["/a.txt"], {"best/top1": 0.5}, {"trial.state": "failed"}, None)
    state.update(run_id="abc", sent_bytes=10, end=end)
    assert TrackingState.read(tmp_path) == state
    assert json.loads((tmp_path / "tracking.json").read_text())["run_id"] == "abc"


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    end = {"status": "FINISHED", "time_s": 1.0, "artifacts": [], "values": {}}
    content = {"run_id": "abc", "sent_bytes": 7, "end": end, "complete": False, "unknown": 1}
    (tmp_path / "tracking.json").write_text(json.dumps(content))
    assert TrackingState.read(tmp_path) == TrackingState(tmp_path, "abc", 7, EndOfRun("FINISHED", 1.0))


def test_a_moved_run_keeps_its_mlflow_run_and_a_copied_one_gets_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = tmp_path / "first"
    first.mkdir()
    TrackingState.read(first).update(run_id="abc", sent_bytes=10)
    moved, copy = first.rename(tmp_path / "moved"), tmp_path / "copy"
    state = TrackingState.read(moved)
    assert (state.run_id, state.sent_bytes) == ("abc", 10)
    state.update(sent_bytes=12)
    shutil.copytree(moved, copy)
    assert TrackingState.read(copy) == TrackingState(copy)
    assert f"{copy} is a copy of {moved}" in caplog.text
    TrackingState.read(copy).update(run_id="def")
    assert (TrackingState.read(moved).run_id, TrackingState.read(copy).run_id) == ("abc", "def")


def test_a_damaged_file_is_reported_and_the_run_is_logged_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tracking.json").touch()
    assert TrackingState.read(tmp_path) == TrackingState(tmp_path)
    assert "is damaged; the run is logged as a new MLflow run" in caplog.text

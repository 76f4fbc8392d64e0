from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from advise_ray.backend import nodes
from advise_ray.config import load, to_yaml
from advise_ray.errors import UsageError
from advise_ray.training.status import noting, read


def run_dir(tmp_path: Path, *, noted_s: float, result: dict[str, Any] | None = None) -> Path:
    """Of a run at step 40 of 100, a step every two seconds."""
    (tmp_path / "config.yaml").write_text(to_yaml(load(None, ["train.epochs=5"])))
    now_s = time.time()
    lines = [
        {"time_s": now_s - 80 + 2 * n, "epoch": n // 20, "step": n, "values": {"train/loss": 1.0}} for n in range(1, 41)
    ]
    ended = {"rate/epoch_s": 40.0, "rate/data_wait_fraction": 0.4, "rate/clips_per_s": 9.0}
    lines.append({"time_s": now_s, "epoch": 1, "step": 40, "values": ended})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
    noted = {"time_s": now_s - noted_s, "total_steps": 100, "waiting": None, "nodes": []}
    (tmp_path / "status.json").write_text(json.dumps(noted))
    if result is not None:
        (tmp_path / "result.json").write_text(json.dumps(result))
    return tmp_path


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    found = read(run_dir(tmp_path, noted_s=5))
    assert (found["status"], found["epoch"], found["epochs"], found["step"], found["steps"]) == (
        "RUNNING",
        2,
        5,
        40,
        100,
    )
    assert found["eta_s"] == pytest.approx(120, abs=1)
    assert found["bound_by"].startswith("decoding: workers wait 40% of the time")


def test_a_run_whose_driver_is_gone(tmp_path: Path) -> None:
    found = read(run_dir(tmp_path, noted_s=300))
    assert (found["status"], found["eta_s"]) == ("SILENT", None)
    assert found["silent_s"] == pytest.approx(300, abs=2)


def test_a_run_that_ended_and_one_that_was_resumed_after(tmp_path: Path) -> None:
    ended = {"status": "KILLED", "ended_s": time.time() - 60}
    assert read(run_dir(tmp_path, noted_s=65, result=ended))["status"] == "KILLED"
    assert read(run_dir(tmp_path, noted_s=3, result=ended))["status"] == "RUNNING"


def test_a_sweep_is_noted_while_it_works_and_shows_its_ended_trials(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(nodes, "usage", list)  # without Ray
    (tmp_path / "config.yaml").write_text(to_yaml(load(None, ["search={optim.lr: {grid: [0.1, 0.2]}}"])))
    (tmp_path / "trials" / "0000").mkdir(parents=True)
    (tmp_path / "trials" / "0000" / "trial.json").write_text("{}")
    (tmp_path / "status.json").write_text(
        json.dumps({"time_s": time.time() - 300, "total_steps": 2, "waiting": None, "nodes": []})
    )
    assert read(tmp_path)["status"] == "SILENT"
    with noting(tmp_path, 2, lambda: "waiting for 1 CPU"):
        time.sleep(0.5)
        found = read(tmp_path)
    assert (found["status"], found["step"], found["steps"]) == ("RUNNING", 1, 2)
    assert found["waiting"] == "waiting for 1 CPU"
    (tmp_path / "result.json").write_text(json.dumps({"status": "FINISHED", "ended_s": time.time()}))
    assert read(tmp_path)["status"] == "FINISHED"


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run directory"):
        read(tmp_path)

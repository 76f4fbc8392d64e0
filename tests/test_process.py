"""The command as a process of its own: signals, sudden death, exit codes, what goes to stdout."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advise_ray import tracking
from advise_ray.config import load
from advise_ray.training.trainer import resume, train

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PATIENCE_S = 180


def start(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "advise_ray", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def wait_for_step(run_dir: Path, step: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    metrics = run_dir / "metrics.jsonl"
    while not (metrics.exists() and any(f'"step": {step},' in line for line in metrics.read_text().splitlines())):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def status(run_dir: Path) -> str:
    client, _ = tracking.connect(load(run_dir / "config.yaml"))
    return str(client.get_run(json.loads((run_dir / "tracking.json").read_text())["run_id"]).info.status)


def losses(run_dir: Path) -> dict[int, float]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["values"]["train/loss"] for line in lines if "train/loss" in line["values"]}


@pytest.fixture(scope="module")
def overrides(tiny: tuple[str, ...], manifest: Path, features: Path) -> list[str]:
    settings = [
        *tiny,
        f"data.manifest={manifest}",
        f"data.features={features}",
        "train.epochs=200",
        "data.deterministic=true",
    ]
    return [part for setting in settings for part in ("--set", setting)]


def test_stopped_and_killed_and_resumed_it_is_the_run_it_would_have_been(
    overrides: list[str], beside: dict[str, str], tmp_path: Path
) -> None:
    where = [f"storage.path={tmp_path}", "tracking.run_name=stopped"]
    stopped = tmp_path / "stopped"
    process = start("train", *overrides, *(part for setting in where for part in ("--set", setting)))
    wait_for_step(stopped, 6)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert f"go on with: advise-ray train --resume {stopped}" in stderr
    assert "Traceback" not in stderr
    assert status(stopped) == json.loads((stopped / "result.json").read_text())["status"] == "KILLED"

    process = start("train", "--resume", str(stopped), env=beside)
    wait_for_step(stopped, max(losses(stopped)) + 6)
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    assert status(stopped) == "RUNNING"  # nobody was left to say otherwise

    process = start("train", "--resume", str(stopped), env=beside)
    wait_for_step(stopped, max(losses(stopped)) + 6)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert status(stopped) == "KILLED"

    assert resume(stopped)["status"] == "FINISHED"
    assert status(stopped) == "FINISHED"
    undisturbed = train(load(stopped / "config.yaml", ["tracking.run_name=undisturbed"]))
    assert losses(stopped) == pytest.approx(losses(Path(undisturbed["run_dir"])), rel=1e-5)


def test_a_flat_folder_of_unlabelled_videos_trains(
    tiny: tuple[str, ...], synthesized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my videos"
    folder.mkdir()
    for number, video in enumerate(sorted(synthesized.rglob("*.mp4"))[:12]):
        (folder / f"holiday {number}.mp4").symlink_to(video)
    (folder / "no video.mp4").write_text("but a text")
    settings = [*tiny, f"storage.path={tmp_path}"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    process = start("--quiet", "train", "--videos", str(folder), *arguments, "--json")
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    result = json.loads(stdout)
    assert result["status"] == "FINISHED"
    assert result["clips_seen"] > 0
    assert "1 videos cannot be read and are left out; why: " in stderr
    assert "epoch" not in stderr
    assert "clips/s" not in stderr
    client, _ = tracking.connect(load(Path(result["run_dir"]) / "config.yaml"))
    metrics = client.get_run(result["mlflow_run_id"]).data.metrics
    assert metrics["system/cpu_utilization_percentage"] > 0


def test_a_server_that_is_down_is_an_error_before_anything_starts(overrides: list[str], tmp_path: Path) -> None:
    where = [f"storage.path={tmp_path / 'runs'}", "tracking.uri=http://127.0.0.1:9"]
    process = start("train", *overrides, *(part for setting in where for part in ("--set", setting)))
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "error: tracking.uri: cannot log to http://127.0.0.1:9" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert not list(tmp_path.glob("runs/*"))

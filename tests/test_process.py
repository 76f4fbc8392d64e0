"""The command in a separate process: signals, sudden death, exit codes, and standard output."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advise_ray import tracking
from advise_ray.config import load
from advise_ray.training.local import train_here
from advise_ray.training.trainer import resume
from tests.runs import PATIENCE_S, eventually_step, losses, set_options, start, train_workers


def status(run_dir: Path) -> str:
    client, _ = tracking.connect(load(run_dir / "config.yaml"))
    return str(client.get_run(json.loads((run_dir / "tracking.json").read_text())["run_id"]).info.status)


def test_a_flat_folder_trains_until_ctrl_c_and_goes_on_where_it_was(
    tiny: tuple[str, ...], synthesized: Path, beside: dict[str, str], tmp_path: Path
) -> None:
    """Unlabelled videos and a text among them; first on a Ray that the command starts itself."""
    folder, run_dir = tmp_path / "my videos", tmp_path / "stopped"
    folder.mkdir()
    for number, video in enumerate(sorted(synthesized.rglob("*.mp4"))[:12]):
        (folder / f"holiday {number}.mp4").symlink_to(video)
    (folder / "no video.mp4").write_text("but a text")
    own = ("train.epochs=40", "train.checkpoint_every_epochs=40", "data.deterministic=true")
    own += (f"storage.path={tmp_path}", "tracking.run_name=stopped")
    process = start("--quiet", "train", "--videos", str(folder), *set_options([*tiny, *own]), "--json")
    eventually_step(run_dir, 6, alive=process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "1 video(s) cannot be read and are skipped; see " in stderr
    done = len(losses(run_dir))
    assert done < 40 * 3
    assert f"interrupted; step {done} is saved; resume with: advise-ray train --resume {run_dir}" in stderr
    assert "Traceback" not in stderr
    assert "epoch" not in stderr  # it is quiet
    assert "clips/s" not in stderr
    assert status(run_dir) == json.loads((run_dir / "result.json").read_text())["status"] == "KILLED"

    process = start("train", "--resume", str(run_dir), "--json", env=beside)
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    result = json.loads(stdout)
    assert (result["status"], result["steps"]) == ("FINISHED", 40 * 3)
    assert re.search(r"^epoch +40 ", stderr, flags=re.MULTILINE)
    assert status(run_dir) == "FINISHED"
    undisturbed = train_here(load(run_dir / "config.yaml", ["tracking.run_name=undisturbed"]))
    assert losses(run_dir) == pytest.approx(losses(undisturbed), rel=1e-3)


@pytest.mark.full
@pytest.mark.parametrize("second", [True, False])
def test_what_cannot_save_is_ended_by_a_second_signal_or_in_time(
    second: bool, tiny: tuple[str, ...], manifest: Path, features: Path, beside: dict[str, str], tmp_path: Path
) -> None:
    own = (f"data.manifest={manifest}", f"data.features={features}", f"storage.path={tmp_path}")
    own += ("tracking.run_name=stuck", "train.epochs=4000", f"train.grace_s={1000 if second else 3}")
    process = start("train", *set_options([*tiny, *own]), env=beside)
    eventually_step(tmp_path / "stuck", 6, alive=process)
    (worker,) = train_workers()
    worker.suspend()
    process.send_signal(signal.SIGTERM)
    if second:
        time.sleep(2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, stderr
    assert "a second signal ends the command at once" in stderr
    assert f"is saved; resume with: advise-ray train --resume {tmp_path / 'stuck'}" in stderr


@pytest.mark.full
def test_killed_and_told_to_end_and_resumed_it_is_the_run_it_would_have_been(
    tiny: tuple[str, ...], manifest: Path, features: Path, beside: dict[str, str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "killed"
    own = ("train.epochs=200", f"data.manifest={manifest}", f"data.features={features}", "data.deterministic=true")
    own += (f"storage.path={tmp_path}", "tracking.run_name=killed")
    process = start("train", *set_options([*tiny, *own]), env=beside)
    eventually_step(run_dir, 6, alive=process)
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    assert status(run_dir) == "RUNNING"  # nobody was left to say otherwise

    process = start("train", "--resume", str(run_dir), env=beside)
    eventually_step(run_dir, len(losses(run_dir)) + 6, alive=process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert f"interrupted; step {len(losses(run_dir))} is saved" in stderr
    assert status(run_dir) == "KILLED"

    assert resume(run_dir)["status"] == "FINISHED"
    assert status(run_dir) == "FINISHED"
    undisturbed = train_here(load(run_dir / "config.yaml", ["tracking.run_name=undisturbed"]))
    assert losses(run_dir) == pytest.approx(losses(undisturbed), rel=1e-4)


@pytest.mark.full
def test_a_machines_own_figures_are_in_mlflow(
    tiny: tuple[str, ...], manifest: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    own = (f"data.manifest={manifest}", f"data.features={features}", f"storage.path={tmp_path}", "train.epochs=200")
    process = start("train", *set_options([*tiny, *own]), "--json")
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    result = json.loads(stdout)
    client, _ = tracking.connect(load(Path(result["run_dir"]) / "config.yaml"))
    metrics = client.get_run(result["mlflow_run_id"]).data.metrics
    assert 0 < metrics["system/cpu_utilization_percentage"] <= 100


def test_a_server_that_is_down_is_an_error_before_anything_starts(
    tiny: tuple[str, ...], manifest: Path, beside: dict[str, str], tmp_path: Path
) -> None:
    own = (f"data.manifest={manifest}", f"storage.path={tmp_path / 'runs'}", "tracking.uri=http://127.0.0.1:9")
    process = start("train", *set_options([*tiny, *own]), env=beside)
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout) == (1, "")
    assert "error: tracking.uri: cannot log to http://127.0.0.1:9" in stderr
    assert "Traceback" not in stderr
    assert not list(tmp_path.glob("runs/*"))


def test_imports_leave_a_process_as_it_was() -> None:
    """A notebook keeps its environment, its garbage collector and its signals."""
    code = """
import gc, os, signal
from advise_ray.backend.process_env import ENVIRONMENT
def state():
    return {name: os.environ.get(name) for name in ENVIRONMENT}, gc.get_threshold(), signal.getsignal(signal.SIGTERM)
before = state()
from advise_ray import Config, evaluate, load, train, tune
from advise_ray.training.local import train_here
assert state() == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("start", ["exec {} <&- >&-", "exec env -i {}"], ids=["closed streams", "no environment"])
def test_the_command_runs_where_its_caller_left_it_little(start: str, tmp_path: Path) -> None:
    code = f"{sys.executable} -m advise_ray data synth {tmp_path / 'videos'} --videos 1"
    done = subprocess.run(["/bin/sh", "-c", start.format(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "videos").rglob("*.mp4"))) == 1


def test_the_command_leaves_its_process_alone_where_that_is_asked() -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", "GOMP_SPINCOUNT")}
    code = """
import gc, os, sys
from advise_ray.__main__ import run
sys.argv = ["advise-ray", "--version"]
try:
    run()
except SystemExit:
    print(os.environ.get("GOMP_SPINCOUNT"), gc.get_threshold()[0])
"""
    shown = {}
    for plain in ("0", "1"):
        own = env | {"ADVISE_RAY_PLAIN_PROCESS": plain}
        done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        shown[plain] = done.stdout.splitlines()[-1]
    assert shown == {"0": "3000 100000", "1": f"None {gc.get_threshold()[0]}"}

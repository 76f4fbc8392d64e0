"""Runs recorded in real MLflow stores and servers."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from advise_ray import tracking
from advise_ray.config import Config, flatten, load, to_yaml
from advise_ray.errors import TrackingError
from advise_ray.tracking import RunTracker
from tests.runs import answers, eventually

START = """
import sys
from pathlib import Path
from advise_ray.config import load
from advise_ray.tracking import RunTracker
run_dir = Path(sys.argv[1])
run_dir.mkdir(parents=True)
tracker = RunTracker(load(None, [f"storage.path={run_dir.parent}"]), run_dir)
tracker.start(device="cpu")
assert tracker.finish("FINISHED")
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One SQLite store for all tests that need no fresh one, in a folder with a space in its name."""
    return tmp_path_factory.mktemp("the runs")


def config_of(storage: Path, *settings: str) -> Config:
    return load(None, [f"storage.path={storage}", *settings])


def new_run(config: Config, name: str) -> Path:
    run_dir = Path(config.storage.path) / name
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(to_yaml(config))
    return run_dir


def line(step: int, **values: float) -> str:
    values = {f"train/{name}": value for name, value in values.items()} or {"train/loss": 1 / step}
    return json.dumps({"time_s": 1.7e9 + step, "epoch": 0, "step": step, "values": values}) + "\n"


def write(run_dir: Path, text: str) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(text)


def follow(config: Config, run_dir: Path) -> RunTracker:
    tracker = RunTracker(config, run_dir)
    tracker.start(device="cpu")
    tracker.follow(run_dir / "metrics.jsonl")
    return tracker


def steps(config: Config, run_id: str | None, metric: str = "train/loss") -> list[int]:
    client, _ = tracking.connect(config)
    return sorted(point.step for point in client.get_metric_history(run_id, metric))


def test_a_run_is_recorded_whole(storage: Path) -> None:
    config = config_of(storage, "model.ifm.weights=none", "optim.lr=1e-5", "data.clip.rates=[1, 2]")
    run_dir = new_run(config, "whole")
    (run_dir / "result.json").write_text("{}")
    (storage / "figure.txt").write_text("a figure")
    tracker = follow(config, run_dir)
    write(run_dir, line(1, loss=2.5) + line(2, loss=math.nan) + line(3)[:20])
    eventually(lambda: steps(config, tracker.run_id) == [1, 2])
    write(run_dir, line(3)[20:] + line(4, **{"top1 #1": 0.5}))
    assert tracker.finish("FINISHED", [storage / "figure.txt"], {"best/top1": 0.75})

    client, _ = tracking.connect(config)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "whole"
    of_sweeps = {key for key in flatten(config) if key.startswith(("search", "tune."))}
    assert run.data.params.keys() == flatten(config).keys() - of_sweeps
    assert run.data.params["optim.lr"] == "1e-05"
    assert run.data.params["data.manifest"] == "null"
    assert run.data.params["data.clip.rates"] == "[1.0, 2.0]"
    assert {"version.torch", "version.mlflow", "version.python"} <= run.data.tags.keys()
    assert run.data.tags["device"] == "cpu"
    first, second, third = client.get_metric_history(tracker.run_id, "train/loss")
    assert (first.value, first.timestamp) == (2.5, 1_700_000_001_000)
    assert math.isnan(second.value)
    assert third.step == 3
    assert run.data.metrics["best/top1"] == 0.75
    assert run.data.metrics["train/top1 _1"] == 0.5  # MLflow refuses a whole batch for one such name
    assert {file.path for file in client.list_artifacts(tracker.run_id)} == {"config.yaml", "result.json", "figure.txt"}
    assert (storage / "mlflow-artifacts" / str(tracker.run_id) / "artifacts" / "config.yaml").is_file()


def test_two_first_starts_at_once_work_and_print_nothing(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", START, str(tmp_path / "runs" / name)] for name in ("a", "b")]
    drivers = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
    assert [(driver.communicate()[0], driver.returncode) for driver in drivers] == [("", 0), ("", 0)]
    client, experiment = tracking.connect(config_of(tmp_path / "runs"))
    assert {run.info.run_name for run in client.search_runs([experiment])} == {"a", "b"}


def test_a_driver_killed_while_it_makes_the_store_leaves_no_half_of_one(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", START, str(tmp_path / "killed")])
    eventually(lambda: any(tmp_path.glob(".mlflow-*/*.db")), 60)
    driver.kill()
    driver.wait()
    assert not (tmp_path / "mlflow.db").exists()
    config = config_of(tmp_path)
    assert RunTracker(config, new_run(config, "next")).start(device="cpu")


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(storage: Path) -> None:
    config = config_of(storage)
    run_dir = new_run(config, "resumed")
    first = follow(config, run_dir)
    write(run_dir, line(1) + line(2)[:-9])
    assert first.finish("KILLED")
    write(run_dir, line(2)[-9:] + line(3))

    changed = config_of(storage, "train.epochs=77")
    second = follow(changed, run_dir)
    assert second.run_id == first.run_id
    client, _ = tracking.connect(config)
    assert client.get_run(second.run_id).info.status == "RUNNING"
    assert second.finish("FAILED")
    run = client.get_run(second.run_id)
    assert run.info.status == "FAILED"
    assert run.data.params["train.epochs"] == str(config.train.epochs)
    assert run.data.tags["resumed.train.epochs"] == "77"
    assert steps(config, second.run_id) == [1, 2, 3]


def test_a_run_that_was_deleted_in_mlflow_is_sent_anew_when_it_is_resumed(storage: Path) -> None:
    config = config_of(storage)
    run_dir = new_run(config, "deleted")
    first = follow(config, run_dir)
    write(run_dir, line(1))
    assert first.finish("KILLED")
    client, _ = tracking.connect(config)
    client.delete_run(first.run_id)
    second = follow(config, run_dir)
    assert second.finish("FINISHED")
    assert second.run_id != first.run_id
    assert steps(config, second.run_id) == [1]


def test_a_long_backlog_arrives_complete(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.run_tracker, "LAST_TRY_S", 0)  # for a server that is away, not for one that is busy
    config = config_of(storage)
    run_dir = new_run(config, "long")
    write(run_dir, "".join(line(step) for step in range(1, 3001)))
    tracker = follow(config, run_dir)
    assert tracker.finish("FINISHED")
    assert steps(config, tracker.run_id) == list(range(1, 3001))


def test_sync_ends_a_run_whose_driver_died_after_its_result(storage: Path) -> None:
    config = config_of(storage)
    run_dir = new_run(config, "abrupt")
    tracker = RunTracker(config, run_dir)
    tracker.start(device="cpu")
    write(run_dir, line(1))
    (run_dir / "result.json").write_text('{"status": "FINISHED"}')
    RunTracker.sync(run_dir)
    client, _ = tracking.connect(config)
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert steps(config, tracker.run_id) == [1]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:9", "Connection refused"),
        ("https://token@127.0.0.1:9", "Connection refused"),
        ("./mlruns", "filesystem tracking backend"),
        ("mysql+nodriver://127.0.0.1/db", "nodriver"),
        ("htp://127.0.0.1", "unsupported URI"),
        ("sqlite:////proc/nowhere/mlflow.db", "/proc/nowhere"),
    ],
)
def test_a_store_that_cannot_be_used_is_said_in_one_line_within_seconds(tmp_path: Path, uri: str, reason: str) -> None:
    config = config_of(tmp_path, f"tracking.uri={uri}")
    started_s = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        RunTracker(config, tmp_path).start(device="cpu")
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    assert "token" not in message
    assert len(message) < 400
    assert time.monotonic() - started_s < 8
    assert not (tmp_path / "tracking.json").exists()


def test_a_check_of_the_store_makes_nothing(storage: Path, tmp_path: Path) -> None:
    tracking.check(config_of(tmp_path / "unmade"))
    assert not (tmp_path / "unmade").exists()
    tracking.check(config_of(storage, "tracking.experiment=unmade"))
    client, _ = tracking.connect(config_of(storage))
    assert client.get_experiment_by_name("unmade") is None
    with pytest.raises(TrackingError, match="refused"):
        tracking.check(config_of(tmp_path, "tracking.uri=http://127.0.0.1:9"))


@pytest.mark.full
def test_a_server_that_accepts_and_never_answers_is_known_within_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        config = config_of(tmp_path, f"tracking.uri=http://127.0.0.1:{mute.getsockname()[1]}")
        started_s = time.monotonic()
        with pytest.raises(TrackingError, match="timed out"):
            RunTracker(config, tmp_path).start(device="cpu")
        assert time.monotonic() - started_s < 20


class Server:
    """`mlflow server` on 127.0.0.1, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder = folder
        self.start()

    def start(self) -> None:
        store = tracking.tracking_uri(config_of(self.folder))
        options = f"--host 127.0.0.1 --port {self.port} --workers 1 --artifacts-destination {self.folder}/files"
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, *options.split()]
        log = (self.folder / "server.log").open("a")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        eventually(lambda: answers(f"http://127.0.0.1:{self.port}/health"), alive=self.process)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    tracking.connect(config_of(folder))  # makes the store, faster than the server does
    server = Server(folder)
    yield server
    server.kill()


@pytest.mark.full
def test_a_server_that_dies_in_mid_run_gets_everything_once_when_it_is_back(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path, f"tracking.uri=http://127.0.0.1:{server.port}", "tracking.experiment=dies")
    run_dir = new_run(config, "dies")
    tracker = follow(config, run_dir)
    write(run_dir, line(1, loss=math.inf) + line(2))
    eventually(lambda: steps(config, tracker.run_id) == [1, 2])
    server.kill()
    write(run_dir, line(3))
    eventually(lambda: "unreachable" in caplog.text)
    write(run_dir, line(4))
    time.sleep(3)  # more tries, no more warnings
    server.start()
    eventually(lambda: steps(config, tracker.run_id) == [1, 2, 3, 4], 60)
    assert tracker.finish("FINISHED")
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [message.split()[2] for message in warnings] == ["unreachable", "again;"]
    client, _ = tracking.connect(config)
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["config.yaml"]


@pytest.mark.full
def test_what_a_server_missed_at_the_end_is_synced_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking.run_tracker, "LAST_TRY_S", 2)
    config = config_of(tmp_path, f"tracking.uri=http://127.0.0.1:{server.port}", "tracking.experiment=later")
    run_dir = new_run(config, "later")
    tracker = follow(config, run_dir)
    server.kill()
    write(run_dir, line(1))
    started_s, ended_s = time.monotonic(), time.time()
    assert not tracker.finish("KILLED")
    assert time.monotonic() - started_s < 5
    with pytest.raises(TrackingError, match="refused"):
        RunTracker.sync(run_dir)
    server.start()
    RunTracker.sync(run_dir)
    client, _ = tracking.connect(config)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "KILLED"
    assert run.info.end_time / 1000 == pytest.approx(ended_s, abs=1)  # of the run, not of the sync
    assert steps(config, tracker.run_id) == [1]
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["config.yaml"]
    client.set_terminated(tracker.run_id, "FAILED")
    RunTracker.sync(run_dir)  # has nothing left to send
    assert client.get_run(tracker.run_id).info.status == "FAILED"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("https://user:p@ss@host:5000/x", "https://***@host:5000/x"),
        ("postgresql://h/db?user=u&password=p&x=1", "postgresql://h/db?user=u&password=***&x=1"),
        (
            "failed: http://token@host/api, again: http://token@host",
            "failed: http://***@host/api, again: http://***@host",
        ),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_secrets_are_redacted(text: str, safe: str) -> None:
    assert tracking.redact(text) == safe


def test_no_secret_becomes_a_parameter(storage: Path) -> None:
    config = config_of(storage, "model.ifm.weights=https://key:secret@host/weights.pt")
    run_id = RunTracker(config, new_run(config, "secret")).start(device="cpu")
    client, _ = tracking.connect(config)
    run = client.get_run(run_id)
    assert run.data.params["model.ifm.weights"] == "https://***@host/weights.pt"


def test_the_store_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking.tracking_uri(load(None, ["storage.path=my runs"])) == f"sqlite:///{tmp_path}/my runs/mlflow.db"
    assert tracking.tracking_uri(load(None, ["tracking.uri=sqlite:///x.db"])) == f"sqlite:///{tmp_path}/x.db"


def test_the_ui_is_served_to_this_machine_only(tmp_path: Path) -> None:
    command = tracking.ui_command(config_of(tmp_path / "my runs"))
    assert command.startswith("mlflow server --host 127.0.0.1 ")
    assert command.endswith(f" 'sqlite:///{tmp_path}/my runs/mlflow.db'")
    assert tracking.ui_command(config_of(tmp_path, "tracking.uri=http://host:5000")) == "http://host:5000"

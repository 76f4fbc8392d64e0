"""Runs recorded in real MLflow stores and servers."""

from __future__ import annotations

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
from advise_ray.config import flatten
from advise_ray.errors import TrackingError
from advise_ray.tracking import RunTracker
from tests.runs import answers, eventually
from tests.tracking.stores import config_of, follow, line, new_run, steps, write


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
    monkeypatch.setattr("advise_ray.tracking.run_tracker.LAST_TRY_S", 0)  # of a server that is away, not a busy one
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
    eventually(lambda: "cannot log to MLflow" in caplog.text)
    write(run_dir, line(4))
    time.sleep(3)  # more tries, no more warnings
    server.start()
    eventually(lambda: steps(config, tracker.run_id) == [1, 2, 3, 4], 60)
    assert tracker.finish("FINISHED")
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [" ".join(message.split()[:3]) for message in warnings] == ["cannot log to", "MLflow answers again;"]
    client, _ = tracking.connect(config)
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["config.yaml"]


@pytest.mark.full
def test_what_a_server_missed_at_the_end_is_synced_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advise_ray.tracking.run_tracker.LAST_TRY_S", 2)
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


def test_no_secret_becomes_a_parameter(storage: Path) -> None:
    config = config_of(storage, "model.ifm.weights=https://key:secret@host/weights.pt")
    run_id = RunTracker(config, new_run(config, "secret")).start(device="cpu")
    client, _ = tracking.connect(config)
    run = client.get_run(run_id)
    assert run.data.params["model.ifm.weights"] == "https://***@host/weights.pt"

"""A notebook that uses MLflow itself finds it as it was."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from advise_ray.tracking.isolation import SETTINGS, isolated

NOTEBOOK = """
import json, logging, os, sys
from pathlib import Path
import mlflow
from mlflow.store.db import utils
from advise_ray import tracking
from advise_ray.config import load, to_yaml
from advise_ray.errors import TrackingError
from advise_ray.tracking import RunTracker

folder = Path(sys.argv[1])
mlflow.set_tracking_uri(f"sqlite:///{folder}/mine.db")
mlflow.set_experiment("mine")

def process():
    loggers = [logging.getLogger(name) for name in sorted(logging.root.manager.loggerDict) if "advise" not in name]
    kept = ("mlflow", "alembic", "sqlalchemy.engine", "urllib3.connectionpool", "sqlalchemy")
    return {
        "loggers": {each.name: (each.level, each.propagate, each.disabled, list(each.filters),
                                [(handler, handler.level, list(handler.filters)) for handler in each.handlers])
                    for each in [logging.root, *loggers] if each.name in kept},
        "environment": {name: value for name, value in os.environ.items() if name != "PATH"},  # decord appends to it
        "store": (mlflow.get_tracking_uri(), mlflow.get_registry_uri()),
        "retries": utils.MAX_RETRY_COUNT,
        "folder": Path.cwd(),
    }

before = process()
for own in ([], ["tracking.uri=http://127.0.0.1:9"]):
    config = load(None, [f"storage.path={folder}/runs", f"tracking.uri=sqlite:///{folder}/ours.db", *own])
    run_dir = folder / "runs" / "first"
    checkpoint = run_dir / "checkpoints" / "step_00000001"
    checkpoint.mkdir(parents=True, exist_ok=True)
    state = {"step": 1, "metrics": {"val/top1": 0.5}, "manifest_sha256": "one", "classes": ["×1"]}
    (checkpoint / "config.yaml").write_text(to_yaml(config))
    (checkpoint / "state.json").write_text(json.dumps(state))
    tracker = RunTracker(config, run_dir)
    try:
        tracker.start(device="cpu")
        assert tracker.finish("FINISHED", model=checkpoint)
        client, _ = tracking.connect(config)
        version = client.get_model_version_by_alias("advise-ray-prp", "best")
        model = mlflow.artifacts.download_artifacts(version.source, tracking_uri=tracking.tracking_uri(config))
        assert {path.name for path in Path(model).iterdir()} >= {"MLmodel", "requirements.txt", "code"}
        assert client.search_logged_models(['1'])[0].status == "READY"
        assert client.get_run(tracker.run_id).info.status == "FINISHED"
    except TrackingError as error:
        assert "refused" in str(error)
after = process()
assert after == before
with mlflow.start_run() as run:
    mlflow.log_metric("mine", 1)
assert mlflow.get_experiment(run.info.experiment_id).name == "mine"
runs = mlflow.MlflowClient().search_runs(["0", run.info.experiment_id])
assert [each.info.run_id for each in runs] == [run.info.run_id]
assert mlflow.search_logged_models(output_format="list") == []
"""


def test_a_notebooks_mlflow_is_as_it_was(tmp_path: Path) -> None:
    """With its own server and experiment, and a run of ours with a model in between."""
    done = subprocess.run([sys.executable, "-c", NOTEBOOK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_variables_last_as_long_as_the_last_of_two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    before = dict(os.environ)
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with isolated():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with isolated():
        thread.start()
        entered.wait()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == SETTINGS["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    leave.set()
    thread.join()
    assert dict(os.environ) == before


def test_log_lines_are_hidden_in_this_thread_only(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    log = logging.getLogger("mlflow.somewhere")
    with isolated():
        log.warning("ours")
        other = threading.Thread(target=log.warning, args=("of the notebook",))
        other.start()
        other.join()
    log.warning("later")
    shown = capsys.readouterr().err
    assert "ours" not in shown
    assert "of the notebook" in shown
    assert "later" in shown

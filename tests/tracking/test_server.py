"""The check of a store before a run, and its creation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from advise_ray import tracking
from advise_ray.errors import TrackingError, UsageError
from advise_ray.tracking import RunTracker
from tests.runs import eventually
from tests.tracking.stores import config_of, new_run

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


def test_two_first_starts_at_once_work_and_print_nothing(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", START, str(tmp_path / "runs" / name)] for name in ("a", "b")]
    drivers = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
    assert [(driver.communicate()[0], driver.returncode) for driver in drivers] == [("", 0), ("", 0)]
    client, experiment = tracking.connect(config_of(tmp_path / "runs"))
    assert {run.info.run_name for run in client.search_runs([experiment])} == {"a", "b"}


def test_a_driver_killed_while_it_makes_the_store_leaves_no_half_of_one(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", START, str(tmp_path / "killed")])
    eventually((tmp_path / ".mlflow.lock").exists, 60)
    driver.kill()
    driver.wait()
    tracking.check(config_of(tmp_path))
    assert not list(tmp_path.glob(".mlflow-*"))
    config = config_of(tmp_path)
    assert RunTracker(config, new_run(config, "next")).start(device="cpu")


def test_a_check_of_the_store_makes_nothing(storage: Path, tmp_path: Path) -> None:
    tracking.check(config_of(tmp_path / "unmade"))
    assert not (tmp_path / "unmade").exists()
    tracking.check(config_of(storage, "tracking.experiment=unmade"))
    client, _ = tracking.connect(config_of(storage))
    assert client.get_experiment_by_name("unmade") is None
    with pytest.raises(TrackingError, match="refused"):
        tracking.check(config_of(tmp_path, "tracking.uri=http://127.0.0.1:9"))


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(storage: Path) -> None:
    config = config_of(storage, "tracking.experiment=deleted by hand")
    client, experiment = tracking.connect(config)
    client.delete_experiment(experiment)
    for use in (tracking.check, tracking.connect):
        with pytest.raises(UsageError, match=r"^tracking\.experiment: .* was deleted in MLflow") as caught:
            use(config)
    command = str(caught.value).split("`")[1]
    assert command == f"MLFLOW_TRACKING_URI='sqlite:///{storage}/mlflow.db' mlflow experiments restore -x {experiment}"
    client.restore_experiment(experiment)
    tracking.check(config)

"""The metrics and data sets of a run's model, by which the MLflow UI compares models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from advise_ray import tracking
from advise_ray.config import Config, to_yaml
from advise_ray.tracking import RunTracker
from tests.tracking.stores import config_of, data_set, new_run, steps, write

DATA = [data_set("training"), data_set("validation"), data_set("test")]


def epoch(step: int, prefix: str = "", **values: float) -> str:
    named = {prefix + name.replace("__", "/"): value for name, value in values.items()}
    return json.dumps({"time_s": 1.7e9 + step, "kind": "epoch", "epoch": 0, "step": step, "values": named}) + "\n"


def checkpoint_of(training_dir: Path, config: Config, step: int) -> Path:
    checkpoint = training_dir / "checkpoints" / f"step_{step:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.yaml").write_text(to_yaml(config))
    state: dict[str, Any] = {"step": step, "metrics": {"val/top1": 0.5}, "manifest_sha256": "", "classes": ["a", "b"]}
    (checkpoint / "state.json").write_text(json.dumps(state))
    return checkpoint


def upload_nothing(tracker: RunTracker) -> str:
    """A logged model without files, as if its upload had just ended. Returns its id."""
    client, experiment = tracking.connect(tracker.config)
    model_id = str(client.create_logged_model(experiment, "model", tracker.run_id).model_id)
    tracker._state.update(model=f"models:/{model_id}")
    return model_id


def measured(config: Config, model_id: str) -> dict[str, tuple[float, str | None]]:
    """Metric → value and data set."""
    client, _ = tracking.connect(config)
    return {each.key: (each.value, each.dataset_name) for each in client.get_logged_model(model_id).metrics or []}


def test_the_model_of_a_run_has_the_metrics_of_its_epoch_and_those_of_evaluations(storage: Path) -> None:
    config = config_of(storage, "tracking.experiment=measured")
    run_dir = new_run(config, "measured")
    best, other = checkpoint_of(run_dir, config, 2), checkpoint_of(run_dir, config, 4)
    tracker = RunTracker(config, run_dir)
    tracker.start("cpu", data_sets=DATA[:2])
    write(run_dir, epoch(2, train__epoch_loss=1.5, val__top1=0.5, val__loss=float("nan"), rate__clips_per_s=9.0))
    write(run_dir, epoch(4, train__epoch_loss=1.0, val__top1=0.25))
    model_id = upload_nothing(tracker)
    assert tracker.finish("FINISHED", model=best)
    expected = {"train/epoch_loss": (1.5, "clips training"), "val/top1": (0.5, "clips validation")}
    assert measured(config, model_id) == expected
    assert steps(config, tracker.run_id, "val/top1") == [2, 4]  # those of the run are there once
    client, _ = tracking.connect(config)
    versions = json.loads(client.get_logged_model(model_id).tags["mlflow.modelVersions"])
    assert versions == [{"name": "measured-prp", "version": "1"}]

    assert tracker.add({"eval/knn/top1": 0.125}, [], "evaluation/knn", DATA[2:], other)
    assert measured(config, model_id) == expected
    assert tracker.add({"eval/knn/top1": 0.75}, [], "evaluation/knn", DATA[2:], best)
    assert measured(config, model_id) == expected | {"eval/knn/top1": (0.75, "clips test")}


def test_the_model_of_a_trial_is_that_of_its_last_training(storage: Path) -> None:
    config = config_of(storage, "tracking.experiment=swept")
    trial_dir = new_run(config, "0004")
    kept = checkpoint_of(trial_dir / "finetune", config_of(storage, "task=action"), 2)
    write(trial_dir / "finetune", epoch(2, val__top1=0.875))
    write(trial_dir, epoch(2, val__top1=0.5) + epoch(2, "finetune/", val__top1=0.875))
    tracker = RunTracker(config, trial_dir)
    tracker.start("cpu", data_sets=DATA)
    assert tracker.finish("FINISHED", summary={"acc_ft": 0.625})
    client, _ = tracking.connect(config)
    assert not client.search_registered_models("name LIKE 'swept%'")
    again = RunTracker(config, trial_dir)
    model_id = upload_nothing(again)
    assert again.keep_model(kept)
    assert measured(config, model_id) == {
        "finetune/val/top1": (0.875, "clips validation"),
        "acc_ft": (0.625, "clips test"),
    }
    assert client.get_run(again.run_id).data.metrics["val/top1"] == 0.5
    assert [each.name for each in client.search_registered_models("name LIKE 'swept%'")] == ["swept-action"]
    assert RunTracker(config, trial_dir).keep_model(kept)  # MLflow has it
    assert len(client.search_model_versions("name = 'swept-action'")) == 1

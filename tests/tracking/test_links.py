"""Links to the MLflow UI, and the tables that they open. `tests/test_browser.py` opens them."""

from __future__ import annotations

import json
from pathlib import Path

from advise_ray import tracking
from advise_ray.tracking import RunTracker, links
from advise_ray.tracking.tracking_state import TrackingState
from advise_ray.tracking.views import TAG
from tests.tracking.stores import config_of, follow, new_run

SEARCH = ("search.optim.lr={loguniform: [1.0e-4, 1.0e-2]}", "tune={searcher: random, objective: finetune}")


def test_the_ui_is_served_to_this_machine_only(tmp_path: Path) -> None:
    command = tracking.ui_command(config_of(tmp_path / "my runs"))
    assert command.startswith("mlflow server --host 127.0.0.1 --port 5000 ")
    assert command.endswith(f" 'sqlite:///{tmp_path}/my runs/mlflow.db'")
    assert tracking.ui_command(config_of(tmp_path, "tracking.uri=http://host:5000")) == "http://host:5000"


def test_a_run_links_to_its_curves(storage: Path) -> None:
    config = config_of(storage)
    run_dir = new_run(config, "linked")
    assert tracking.link(config, run_dir) is None  # MLflow does not have it yet
    tracker = follow(config, run_dir)
    assert tracker.finish("FINISHED")
    _, experiment = tracking.connect(config)
    page = f"experiments/{experiment}/runs/{tracker.run_id}/model-metrics?workflowType=machine_learning"
    assert tracking.link(config, run_dir) == f"http://127.0.0.1:5000/#/{page}"
    server = config_of(storage, "tracking.uri=https://team/mlflow/")
    assert tracking.link(server, run_dir) == f"https://team/mlflow/#/{page}"
    assert tracking.link(config_of(storage, "tracking.uri=databricks"), run_dir) is None


def test_a_run_of_an_earlier_version_gets_its_link_when_it_is_evaluated(storage: Path) -> None:
    config = config_of(storage, "tracking.experiment=earlier")
    run_dir = new_run(config, "earlier")
    first = follow(config, run_dir)
    assert first.finish("FINISHED")
    _, experiment = tracking.connect(config)
    first._state.update(experiment_id=None)
    assert tracking.link(config, run_dir) is None
    other = config_of(storage, "tracking.experiment=another")  # the run stays where it is
    assert RunTracker(other, run_dir).add({"eval/knn/top1": 0.5}, [], "evaluation/knn")
    assert f"/experiments/{experiment}/runs/" in str(tracking.link(config, run_dir))


def test_a_training_of_a_trial_links_to_the_trial(storage: Path) -> None:
    config = config_of(storage)
    trial_dir = new_run(config, "0003")
    (trial_dir / "settings.json").write_text("{}")
    tracker = follow(config, trial_dir)
    training = config_of(trial_dir)  # as trials place their trainings
    assert tracking.tracked(training, trial_dir / "pretrain") == (config, trial_dir)
    assert tracking.tracked(config, trial_dir) == (config, trial_dir)
    assert f"/runs/{tracker.run_id}/" in str(tracking.link(config, trial_dir))


def test_a_sweep_links_to_its_trials_best_first_with_the_columns_that_matter(storage: Path) -> None:
    config = config_of(storage, *SEARCH)
    sweep_dir = new_run(config, "rates")
    tracker = RunTracker(config, sweep_dir)
    tracker._sender.begin("rates", {}, {})
    by_address = tracking.link(config, sweep_dir)  # the server has not answered since
    assert by_address is not None
    assert "orderByKey=metrics.%60acc_ft%60&orderByAsc=false" in by_address
    assert f"searchFilter=tags.%60mlflow.parentRunId%60%20%3D%20%27{tracker.run_id}%27" in by_address

    tracker._sender.send()
    key = TrackingState.read(sweep_dir).view
    assert str(tracking.link(config, sweep_dir)).endswith(
        f"/runs?workflowType=machine_learning&viewStateShareKey={key}"
    )
    client, experiment = tracking.connect(config)
    saved = json.loads(client.get_experiment(experiment).tags[f"{TAG}{key}"])
    assert saved["name"] == "trials of rates, best first"
    state = json.loads(saved["state"])
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`acc_ft`", False)
    assert {
        "metrics.`acc_ft`",
        "metrics.`val/top1`",
        "metrics.`rate/clips_per_s`",
        "params.`optim.lr`",
        "attributes.`Dataset`",
    } <= set(state["selectedColumns"])


def test_a_trial_is_sorted_by_the_mean_loss_of_its_last_epoch(storage: Path) -> None:
    config = config_of(storage, SEARCH[0], "tune={searcher: random, metric: train/loss, mode: min}")
    state = json.loads(links.view_of(config, "losses", "id").state)
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`train/epoch_loss`", True)


def test_a_table_that_people_have_changed_stays(storage: Path) -> None:
    config = config_of(storage, "tracking.experiment=changed")
    assert follow(config, new_run(config, "first")).finish("FINISHED")
    client, experiment = tracking.connect(config)
    (tag,) = (key for key in client.get_experiment(experiment).tags if key.startswith(TAG))
    client.set_experiment_tag(experiment, tag, "changed")
    assert follow(config, new_run(config, "second")).finish("FINISHED")
    tags = client.get_experiment(experiment).tags
    assert {key: value for key, value in tags.items() if key.startswith(TAG)} == {tag: "changed"}

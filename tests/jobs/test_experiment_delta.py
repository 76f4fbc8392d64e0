"""The ΔAcc experiment, start to end, on a data set that takes minutes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from advise_ray.config import load, to_yaml
from advise_ray.video.manifest import read_manifest

SCRIPT = Path(__file__).parents[2] / "jobs" / "experiment_delta.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("experiment_delta", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_intervals_are_students_over_the_paired_seeds(script: ModuleType) -> None:
    rows = [{"seed": seed, "delta_acc": delta, "prp_top1": None} for seed, delta in enumerate([0.1, 0.2, 0.0])]
    summary = script.summarise(rows)
    assert summary["delta_acc"]["mean"] == pytest.approx(0.1)
    assert summary["delta_acc"]["half_width_95"] == pytest.approx(4.303 * 0.1 / np.sqrt(3), rel=1e-3)
    assert "prp_top1" not in summary  # no video was long enough
    assert script.summarise(rows[:1])["delta_acc"]["half_width_95"] is None


def test_few_labels_take_them_from_training_alone(script: ModuleType, manifest: Path, tmp_path: Path) -> None:
    few = read_manifest(script.few_labels(manifest, 1, tmp_path)).to_pylist()
    before = read_manifest(manifest).to_pylist()
    left = [row for row in few if row["split"] == "train"]
    assert sorted(row["label"] for row in left) == sorted({row["label"] for row in before if row["split"] == "train"})
    assert [row for row in few if row["split"] == "test"] == [row for row in before if row["split"] == "test"]
    assert len(few) == len(before)


@pytest.mark.full
def test_the_whole_experiment_and_going_on_with_it(
    manifest: Path, features: Path, beside: dict[str, str], tmp_path: Path, tiny: tuple[str, ...]
) -> None:
    pretrain, finetune = tmp_path / "pretrain.yaml", tmp_path / "finetune.yaml"
    pretrain.write_text(to_yaml(load(None, tiny)))
    finetune.write_text(to_yaml(load(None, [*tiny, "task=action", "data.val_split=null", "data.val_fraction=0.2"])))
    command = [sys.executable, SCRIPT, "--manifest", manifest, "--out", tmp_path / "delta", "--pretrain", pretrain]
    command += ["--finetune", finetune, "--seeds", "1", "--clips", "1", "--k", "3"]
    command += ["--crops", "1", "--set", f"data.features={features}"]
    first = subprocess.run(command, env=beside, capture_output=True, text=True, check=False, timeout=560)
    assert first.returncode == 0, first.stderr
    found = json.loads((tmp_path / "delta" / "delta.json").read_text())
    (row,) = found["rows"]
    arms = {f"{protocol}_{arm}" for protocol in ("linear", "knn") for arm in ("ifm", "random_tmm", "prp_tmm")}
    assert arms | {"prp_top1", "acc_ft", "acc_scratch", "delta_acc"} <= row.keys()
    assert row["delta_acc"] == row["acc_ft"] - row["acc_scratch"]
    assert f"| delta_acc | {row['delta_acc']:.3f} |" in first.stdout

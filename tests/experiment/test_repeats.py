"""The whole experiment, from start to end, on sets on which a training takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from advise_ray.config import load, to_yaml
from advise_ray.experiment.repeats import Key, Results, choose_lr
from tests.conftest import Configure

SCRIPT = Path(__file__).parents[2] / "jobs" / "experiment_delta.py"


def test_the_learning_rate_is_the_one_that_does_best_on_training_folds(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    for fold, (low, high) in enumerate([(1.0, 0.0), (0.0, 1.0), (0.0, 1.0)]):
        results.add(Key("fold", "scratch", "set", 0, None, 1e-3, fold), {"a": low})
        results.add(Key("fold", "scratch", "set", 0, None, 1e-2, fold), {"a": high})
        results.add(Key("fold", "other", "set", 0, None, 1e-3, fold), {"a": 1.0})
        results.add(Key("fold", "other", "set", 0, None, 1e-2, fold), {"a": 1.0})
    again = Results(tmp_path / "results.jsonl")
    assert again.held == results.held
    assert choose_lr(again, "scratch", (1e-3, 1e-2)) == 1e-2
    assert choose_lr(again, "other", (1e-2, 1e-3)) == 1e-3  # the smaller of equals


@pytest.mark.full
def test_the_whole_experiment_and_going_on_with_it(
    manifest: Path,
    configure: Configure,
    tmp_path: Path,
    tiny: tuple[str, ...],
    beside: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = [
        *tiny,
        "data.manifest=null",
        "model.head={hidden_dim: 16, looks_weight: 0.5, normalise: true, pooling: mean_max}",
        "model.sfu.standardise=true",
    ]
    (tmp_path / "pretrain.yaml").write_text(to_yaml(load(None, [*own, "pretext.masked_frames=1"])))
    (tmp_path / "rates.yaml").write_text(to_yaml(load(None, own)))
    (tmp_path / "finetune.yaml").write_text(to_yaml(load(None, [*own, "task=action"])))
    sets = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for path in sets:
        path.write_bytes(manifest.read_bytes())
    command = [sys.executable, SCRIPT, "--out", tmp_path / "delta", "--pretrain", tmp_path / "pretrain.yaml"]
    command += ["--finetune", tmp_path / "finetune.yaml", "--arm", f"rates={tmp_path / 'rates.yaml'}", "--seeds", "1"]
    command += [
        "--labels-per-class",
        "1,all",
        "--lr",
        "1e-3,1e-2",
        "--finetune-steps",
        "2",
        "--processes",
        "2",
        "--rival",
        "one",
    ]
    command += [word for path in sets for word in ("--manifest", path)]

    def run() -> subprocess.CompletedProcess[str]:
        environment = beside | {"MLFLOW_TRACKING_URI": "", "PYTHONWARNINGS": "ignore"} | dict(os.environ)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=560)

    first = run()
    assert first.returncode == 0, first.stderr
    summary = json.loads((tmp_path / "delta" / "delta.json").read_text())
    names = {f"{arm}{labels}" for arm in ("scratch", "pretrained", "rates") for labels in ("", ", 1 labels a class")}
    assert summary["acc_ft"].keys() == names
    assert summary["delta_acc"].keys() == {name for name in names if not name.startswith("scratch")}
    for name, delta in summary["delta_acc"].items():
        scratch = "scratch" + name[name.index(",") :] if "," in name else "scratch"
        difference = summary["acc_ft"][name]["all"]["mean"] - summary["acc_ft"][scratch]["all"]["mean"]
        assert delta["all"]["mean"] == pytest.approx(difference)
        assert delta["sets"].keys() == {"one", "two"}
    assert {"linear, mean", "linear, change", "knn, mean", "knn, pretrained"} <= summary["probes"].keys()
    assert summary["pretext"]["pretrained"]["one"].keys() == {"top1", "control/shuffled"}
    assert (tmp_path / "delta" / "delta.png").stat().st_size > 10_000
    assert "| ΔAcc: pretrained |" in first.stdout
    ours, equal_steps, equal_time = summary["rival"]
    assert [lap["name"] for lap in summary["rival"]] == ["AdViSe", "R3D-50, equal steps", "R3D-50, equal time"]
    assert ours["pretrain_steps"] == equal_steps["pretrain_steps"] >= equal_time["pretrain_steps"] > 0
    assert ours["cache_s"] > 0 == equal_steps["cache_s"]
    monkeypatch.chdir(tmp_path)  # what is done is known from any directory
    again = run()
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert "fine-tuning: 1 of" not in again.stderr  # nothing is done twice

"""Whole evaluations: real videos, Ray Data, MLflow, of a run that has learnt rates and one that has learnt actions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from advise_ray import tracking
from advise_ray.config import Config, load, to_yaml
from advise_ray.errors import AdviseRayError, ConfigError, EvaluationError, UsageError
from advise_ray.evaluation.actions import Settings
from advise_ray.evaluation.run import evaluate
from advise_ray.model.advise import build_advise
from advise_ray.training import checkpoint
from advise_ray.training.trainer import train
from advise_ray.video.decode import decode
from advise_ray.video.manifest import read_manifest, videos, write_manifest
from advise_ray.video.sampling import spread_clips

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Result = dict[str, Any]
Evaluate = Callable[..., Result]
FEW = Settings(num_clips=2, k=5)


@pytest.fixture(scope="module")
def configure(manifest: Path, tmp_path_factory: pytest.TempPathFactory, tiny: tuple[str, ...]) -> Callable[..., Config]:
    storage = tmp_path_factory.mktemp("runs")

    def configure(run_name: str, *overrides: str) -> Config:
        where = [f"data.manifest={manifest}", f"storage.path={storage}", f"tracking.run_name={run_name}"]
        return load(None, [*tiny, *where, *overrides])

    return configure


@pytest.fixture(scope="module")
def rates(configure: Callable[..., Config]) -> Result:
    return train(configure("rates"))


@pytest.fixture(scope="module")
def actions(configure: Callable[..., Config], rates: Result) -> Result:
    own = ["task=action", "data.val_split=null", "data.val_fraction=0.2", f"model.init_from={rates['run_dir']}"]
    return train(configure("actions", *own))


def predictions(result: Result) -> list[dict[str, Any]]:
    return pq.read_table(result["predictions"]).to_pylist()


def test_the_honest_rate_metric_is_the_one_that_training_told(rates: Result) -> None:
    result = evaluate(rates["run_dir"], "pretext")
    assert result["checkpoint"] == rates["best_checkpoint"]
    assert result["metrics"]["top1"] == pytest.approx(rates["metrics"]["val/top1"])
    assert {f"control/{name}" for name in ("shuffled", "reversed", "still")} <= result["metrics"].keys()
    assert all(0 <= value <= 1 for value in result["metrics"].values())
    assert result["splits"]["test"]["findings"]
    shown = {Path(path).name for path in result["figures"]}
    assert {"confusion.png", "classes.png"} <= shown
    honest = [row for row in predictions(result) if row["clips"] == "honest"]
    assert len(honest) == 8 * 3


def test_many_views_are_averaged_and_no_video_is_lost(actions: Result, manifest: Path) -> None:
    result = evaluate(actions["run_dir"], "multiview", settings=FEW)
    rows = predictions(result)
    test = {row["video_id"]: row for row in read_manifest(manifest).to_pylist() if row["split"] == "test"}
    assert sorted(row["video_id"] for row in rows) == sorted(test)
    assert all(row["class_name"] == test[row["video_id"]]["class_name"] for row in rows)
    assert result["metrics"]["top1"] == np.mean([row["prediction"] == row["label"] for row in rows])
    # One video by hand: two clips, three crops along the longer side, probabilities averaged.
    config = load(Path(actions["best_checkpoint"]) / "config.yaml")
    model = build_advise(config, 8)
    checkpoint.load(Path(actions["best_checkpoint"]), model.temporal)
    video = next(video for video in videos(read_manifest(manifest)) if video.video_id == rows[0]["video_id"])
    crops = []
    for clip in spread_clips(video.num_frames, config.data.clip, 2):
        frames = torch.from_numpy(decode(Path(video.path), clip, height_px=120, width_px=160))
        crops += [frames[:, 12:108, left : left + 96] for left in (0, 32, 64)]
    with torch.inference_mode():
        expected = model.eval()(torch.stack(crops)).softmax(1).mean(0)
    assert rows[0]["prediction"] == int(expected.argmax())
    assert rows[0]["score"] == pytest.approx(float(expected.max()), abs=1e-4)


@pytest.fixture(scope="module")
def nearest(rates: Result) -> Result:
    return evaluate(rates["run_dir"], "knn", settings=FEW)


def test_a_linear_probe(rates: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advise_ray.evaluation.probes.STEPS", 20)
    result = evaluate(rates["run_dir"], "linear", settings=FEW)
    assert 0 <= result["metrics"]["top1"] <= 1
    assert result["splits"]["test"]["settings_tried"] == 16


def test_nearest_neighbours(nearest: Result) -> None:
    assert (nearest["videos"], nearest["train_videos"], nearest["failed_videos"]) == (8, 16, 0)
    assert len(predictions(nearest)) == 8
    assert {"top1", "top5", "mean_class_accuracy"} == nearest["metrics"].keys()


def test_two_encoding_actors_say_what_the_driver_says(rates: Result, nearest: Result) -> None:
    two = evaluate(rates["run_dir"], "knn", settings=FEW, overrides=["train.num_workers=2"])
    for ours, expected in zip(predictions(two), predictions(nearest), strict=True):
        assert (ours["video_id"], ours["prediction"]) == (expected["video_id"], expected["prediction"])
        assert ours["score"] == pytest.approx(expected["score"], abs=1e-4)


def test_retrieval_and_what_is_left_on_disk(rates: Result) -> None:
    result = evaluate(rates["run_dir"], "retrieval", settings=FEW)
    assert {"recall_at_1", "recall_at_5", "recall_at_10"} == result["metrics"].keys()
    assert result["splits"]["test"]["left_out"] == [f"R@{k}: there are 16 training videos" for k in (20, 50)]
    stored = json.loads((Path(result["evaluation_dir"]) / "result.json").read_text())
    assert stored.items() <= result.items()


def test_an_attentive_probe(rates: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advise_ray.evaluation.probes.ATTENTIVE_STEPS", 5)
    result = evaluate(rates["run_dir"], "linear", settings=Settings(num_clips=1, attentive=True))
    assert Path(result["evaluation_dir"]).name == "linear-attentive"
    assert 0 <= result["metrics"]["top1"] <= 1


def test_the_image_model_alone_and_a_module_at_random(rates: Result, configure: Callable[..., Config]) -> None:
    bare = ["model.tmm.arch=none", "model.sfu.temporal_centering=false"]
    alone = evaluate(rates["run_dir"], "knn", settings=FEW, overrides=bare)
    assert (alone["ifm_alone"], alone["checkpoint"]) == (True, None)
    assert Path(alone["evaluation_dir"]).name == "knn-ifm_alone"
    recipe = Path(rates["run_dir"]).parent / "recipe.yaml"
    recipe.write_text(to_yaml(configure("at-random")))
    random = evaluate(str(recipe), "knn", settings=FEW)
    assert random["checkpoint"] is None
    assert Path(random["evaluation_dir"]).parts[-3:] == ("at-random", "evaluation", "knn")
    client, _ = tracking.connect(configure("at-random"))
    run = client.get_run(random["mlflow_run_id"])
    assert (run.info.status, run.data.metrics["eval/knn/top1"]) == ("FINISHED", random["metrics"]["top1"])


def test_all_official_splits_with_their_deviation(
    rates: Result, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_manifest(manifest).to_pylist()
    for place, row in enumerate(rows):
        row["official_splits"] = [row["split"], "test" if place % 3 == 0 else "train"]
    write_manifest(rows, tmp_path / "both.parquet")
    result = evaluate(rates["run_dir"], "knn", manifest=tmp_path / "both.parquet", split="all", settings=FEW)
    first, second = (result["splits"][number]["metrics"]["top1"] for number in ("1", "2"))
    assert result["metrics"]["top1"] == pytest.approx((first + second) / 2)
    assert result["deviations"]["top1"] == pytest.approx(abs(first - second) / 2**0.5)
    assert {row["split"] for row in predictions(result)} == {"1", "2"}


def test_mlflow_has_metrics_and_pictures_under_the_run(
    rates: Result, nearest: Result, configure: Callable[..., Config]
) -> None:
    assert nearest["mlflow_run_id"] == rates["mlflow_run_id"]
    client, _ = tracking.connect(configure("any"))
    run = client.get_run(rates["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["eval/knn/top1"] == nearest["metrics"]["top1"]
    files = {file.path for file in client.list_artifacts(run.info.run_id, "evaluation/knn")}
    assert {"evaluation/knn/confusion.png", "evaluation/knn/predictions.parquet"} <= files


def test_a_video_that_does_not_decode_counts_as_wrong_and_is_named(
    rates: Result, manifest: Path, tmp_path: Path
) -> None:
    rows = read_manifest(manifest).to_pylist()
    broken = next(row for row in rows if row["split"] == "test")
    shutil.copy(broken["path"], tmp_path / "broken.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    broken["path"] = str(tmp_path / "broken.mp4")
    write_manifest(rows, tmp_path / "m.parquet")
    tolerant = ["data.max_failed_fraction=0.1"]
    result = evaluate(rates["run_dir"], "knn", manifest=tmp_path / "m.parquet", settings=FEW, overrides=tolerant)
    assert result["failed_videos"] == 1
    (row,) = (row for row in predictions(result) if row["video_id"] == broken["video_id"])
    assert (row["prediction"], bool(row["failure"])) == (None, True)
    assert result["metrics"]["top1"] <= 7 / 8
    strict = ["data.max_failed_fraction=0"]
    with pytest.raises(
        EvaluationError, match=r"^1 of 24 videos cannot be decoded, more than data\.max_failed_fraction"
    ):
        evaluate(rates["run_dir"], "knn", manifest=tmp_path / "m.parquet", settings=FEW, overrides=strict)


def test_what_makes_no_sense_is_refused(rates: Result, actions: Result, manifest: Path, tmp_path: Path) -> None:
    def refusal(*args: Any, **settings: Any) -> str:
        with pytest.raises(AdviseRayError) as caught:
            evaluate(*args, **settings)
        assert isinstance(caught.value, UsageError)
        return str(caught.value)

    run = rates["run_dir"]
    assert "neither a run, nor a checkpoint, nor a recipe" in refusal(str(tmp_path / "no"), "knn")
    assert "neither a checkpoint nor a run" in refusal(tmp_path, "knn")
    assert "needs a model that has learnt actions" in refusal(run, "multiview")
    assert "needs a model that has learnt playback rates" in refusal(actions["run_dir"], "pretext")
    assert "--k: 20 neighbours of 16 training videos" in refusal(run, "knn")
    assert "knows 1 official splits, not 2" in refusal(run, "knn", split=2)
    differs = refusal(run, "knn", overrides=["model.sfu.spatial_size=2"])
    assert differs.startswith("model.sfu.spatial_size: 2, but the TMM of ")
    with pytest.raises(ConfigError, match="temporal_centering: the average over time of centred features is 0"):
        evaluate(run, "knn", overrides=["model.tmm.arch=none"])
    rows = read_manifest(manifest).to_pylist()
    for row in rows:
        row["split"] = {"train": "test", "test": "train"}[row["split"]]
    write_manifest(rows, tmp_path / "swapped.parquet")
    seen = refusal(actions["run_dir"], "multiview", manifest=tmp_path / "swapped.parquet")
    assert "16 of the 16 test videos are among those that the checkpoint learnt actions from" in seen

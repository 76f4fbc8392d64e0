"""Whole evaluations, with MLflow, of a run that has learnt rates and one that has learnt actions.

From cached features no Ray is needed; `pretext` and `multiview` decode by Ray Data.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import advise_ray
from advise_ray import tracking
from advise_ray.config import load, to_yaml
from advise_ray.errors import AdviseRayError, ConfigError, EvaluationError, UsageError
from advise_ray.evaluation.evaluate_run import evaluate
from advise_ray.evaluation.predictions import Prediction, read_predictions
from advise_ray.evaluation.protocol import Settings
from advise_ray.model.advise import build_advise
from advise_ray.training import checkpoint
from advise_ray.video.decode import decode
from advise_ray.video.manifest import Videos, read_manifest, write_manifest
from advise_ray.video.sampling import spread_clips
from tests.conftest import Configure, Run

Evaluate = Callable[..., Run]
FEW = Settings(num_clips=2, k=5)


@pytest.fixture(scope="module")
def judge(pretrained: Run, features: Path) -> Evaluate:
    """`evaluate` of the run that has learnt rates, from cached features."""

    def judge(protocol: str, *overrides: str, **how: Any) -> Run:
        own = [f"data.features={features}", *overrides]
        return evaluate(pretrained["run_dir"], protocol, **{"settings": FEW, "overrides": own, **how})

    return judge


def predictions(result: Run) -> list[Prediction]:
    return read_predictions(result["predictions"])


def check(result: Run, manifest: Path) -> list[Prediction]:
    """Each test video has one prediction, beside its own label, and `top1` is what they come to."""
    rows = predictions(result)
    test = {row["video_id"]: row for row in read_manifest(manifest).to_pylist() if row["split"] == "test"}
    assert sorted(row["video_id"] for row in rows) == sorted(test)
    assert all(row["label"] == test[row["video_id"]]["label"] for row in rows)
    assert all(row["class_name"] == test[row["video_id"]]["class_name"] for row in rows)
    assert result["metrics"]["top1"] == np.mean([row["prediction"] == row["label"] for row in rows])
    assert (result["videos"], result["failed_videos"]) == (len(test), 0)
    return rows


def test_the_honest_rate_metric_is_the_one_that_training_told(pretrained: Run) -> None:
    result = evaluate(pretrained["run_dir"], "pretext")
    assert result["checkpoint"] == pretrained["best_checkpoint"]
    assert result["metrics"]["top1"] == pytest.approx(pretrained["metrics"]["val/top1"])
    assert {f"control/{name}" for name in ("shuffled", "reversed", "still")} <= result["metrics"].keys()
    assert result["splits"]["test"]["findings"]
    shown = {Path(path).name for path in result["figures"]}
    assert {"confusion.png", "classes.png"} <= shown
    honest = [row for row in predictions(result) if row["clips"] == "honest"]
    assert len(honest) == 8 * 3
    assert result["metrics"]["top1"] == np.mean([row["prediction"] == row["label"] for row in honest])


def test_many_views_are_averaged_and_no_video_is_lost(fine_tuned: Run, manifest: Path) -> None:
    """Two clips, three crops along the longer side, probabilities averaged: one video by hand."""
    result = evaluate(fine_tuned["run_dir"], "multiview", settings=FEW)
    rows = check(result, manifest)
    config = load(Path(fine_tuned["best_checkpoint"]) / "config.yaml")
    model = build_advise(config, 8)
    checkpoint.load(Path(fine_tuned["best_checkpoint"]), model.temporal)
    video = next(video for video in Videos(read_manifest(manifest)) if video.video_id == rows[0]["video_id"])
    crops = []
    for clip in spread_clips(video.num_frames, config.data.clip, 2):
        frames = torch.from_numpy(decode(Path(video.path), clip, height_px=120, width_px=160))
        crops += [frames[:, 12:108, left : left + 96] for left in (0, 32, 64)]
    with torch.inference_mode():
        expected = model.eval()(torch.stack(crops)).softmax(1).mean(0)
    assert rows[0]["prediction"] == int(expected.argmax())
    assert rows[0]["score"] == pytest.approx(float(expected.max()), abs=2e-6)


@pytest.fixture(scope="module")
def nearest(judge: Evaluate) -> Run:
    return judge("knn")


def test_nearest_neighbours(nearest: Run, pretrained: Run, manifest: Path) -> None:
    """As votes of the five training videos whose mean embeddings are nearest, by hand."""
    rows = check(nearest, manifest)
    assert nearest["train_videos"] == 16
    assert {"top1", "top5", "chance", "mean_class_accuracy"} == nearest["metrics"].keys()
    model, every = advise_ray.load(pretrained["best_checkpoint"]), read_manifest(manifest).to_pylist()
    embedded = []
    for row in every:
        clips = spread_clips(row["num_frames"], model.config.data.clip, 2)
        frames = [decode(Path(row["path"]), clip, height_px=120, width_px=160)[:, 12:108, 32:128] for clip in clips]
        embedded.append(model.encode(np.stack(frames)).mean(0))
    normal = torch.nn.functional.normalize(torch.stack(embedded), dim=1)
    train = [place for place, row in enumerate(every) if row["split"] == "train"]
    for found in rows:
        (place,) = (place for place, row in enumerate(every) if row["video_id"] == found["video_id"])
        similarity, order = (normal[train] @ normal[place]).topk(5)
        votes = torch.zeros(8)
        for near, of in zip(similarity, order, strict=True):
            votes[every[train[of]]["label"]] += float(torch.exp(near / 0.07))
        assert found["prediction"] == int(votes.argmax())


@pytest.mark.full
def test_two_encoding_actors_say_what_the_driver_says(pretrained: Run, nearest: Run) -> None:
    cached = predictions(nearest)  # the next evaluation writes to the same file
    two = evaluate(pretrained["run_dir"], "knn", settings=FEW, overrides=["train.num_workers=2"])
    for ours, expected in zip(predictions(two), cached, strict=True):
        assert (ours["video_id"], ours["prediction"]) == (expected["video_id"], expected["prediction"])
        assert ours["score"] == pytest.approx(expected["score"], abs=0.01)


def test_retrieval_and_what_is_left_on_disk(judge: Evaluate, manifest: Path) -> None:
    result = judge("retrieval")
    assert {"recall_at_1", "recall_at_5", "recall_at_10"} == result["metrics"].keys()
    assert result["splits"]["test"]["left_out"] == [f"R@{k}: there are only 16 training video(s)" for k in (20, 50)]
    stored = json.loads((Path(result["evaluation_dir"]) / "result.json").read_text())
    assert stored.items() <= result.items()
    labels = {row["video_id"]: row["label"] for row in read_manifest(manifest).to_pylist()}
    rows = predictions(result)
    for k in (1, 5, 10):
        hits = [row["label"] in [labels[near] for near in row["nearest"][:k]] for row in rows]
        assert result["metrics"][f"recall_at_{k}"] == np.mean(hits)


def test_a_linear_probe(judge: Evaluate, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advise_ray.evaluation.probes.STEPS", 20)
    result = judge("linear")
    check(result, manifest)
    assert result["splits"]["test"]["settings_tried"] == 16


def test_an_attentive_probe(judge: Evaluate, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advise_ray.evaluation.probes.ATTENTIVE_STEPS", 5)
    result = judge("linear", settings=Settings(num_clips=1, attentive=True))
    assert Path(result["evaluation_dir"]).name == "linear-attentive"
    check(result, manifest)


def test_the_image_model_alone_and_a_module_at_random(
    judge: Evaluate, configure: Configure, features: Path, tmp_path: Path
) -> None:
    alone = judge("knn", "model.tmm.arch=none", "model.sfu.temporal_centering=false")
    assert (alone["ifm_alone"], alone["checkpoint"]) == (True, None)
    assert Path(alone["evaluation_dir"]).name == "knn-ifm_alone"
    config = configure("at-random", f"data.features={features}")
    (tmp_path / "recipe.yaml").write_text(to_yaml(config))
    random = evaluate(str(tmp_path / "recipe.yaml"), "knn", settings=FEW)
    assert random["checkpoint"] is None
    assert Path(random["evaluation_dir"]).parts[-3:] == ("at-random", "evaluation", "knn")
    client, _ = tracking.connect(config)
    run = client.get_run(random["mlflow_run_id"])
    assert (run.info.status, run.data.metrics["eval/knn/top1"]) == ("FINISHED", random["metrics"]["top1"])


def test_all_official_splits_with_their_deviation(judge: Evaluate, manifest: Path, tmp_path: Path) -> None:
    rows = read_manifest(manifest).to_pylist()
    for place, row in enumerate(rows):
        row["official_splits"] = [row["split"], "test" if place % 3 == 0 else "train"]
    write_manifest(rows, tmp_path / "both.parquet")
    result = judge("knn", manifest=tmp_path / "both.parquet", split="all")
    first, second = (result["splits"][number]["metrics"]["top1"] for number in ("1", "2"))
    assert result["metrics"]["top1"] == pytest.approx((first + second) / 2)
    assert result["deviations"]["top1"] == pytest.approx(abs(first - second) / 2**0.5)
    for number in ("1", "2"):
        tested = {row["video_id"] for row in predictions(result) if row["split"] == number}
        assert tested == {row["video_id"] for row in rows if row["official_splits"][int(number) - 1] == "test"}


def test_mlflow_has_metrics_and_pictures_under_the_run(pretrained: Run, nearest: Run, configure: Configure) -> None:
    assert nearest["mlflow_run_id"] == pretrained["mlflow_run_id"]
    client, _ = tracking.connect(configure("any"))
    run = client.get_run(pretrained["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["eval/knn/top1"] == nearest["metrics"]["top1"]
    files = {file.path for file in client.list_artifacts(run.info.run_id, "evaluation/knn")}
    assert {"evaluation/knn/confusion.png", "evaluation/knn/predictions.parquet"} <= files


def test_a_video_that_does_not_decode_counts_as_wrong_and_is_named(
    pretrained: Run, manifest: Path, tmp_path: Path
) -> None:
    """Decoded anew, by Ray Data."""
    rows = read_manifest(manifest).to_pylist()
    broken = next(row for row in rows if row["split"] == "test")
    shutil.copy(broken["path"], tmp_path / "broken.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    broken["path"] = str(tmp_path / "broken.mp4")
    write_manifest(rows, tmp_path / "m.parquet")
    tolerant = ["data.max_failed_fraction=0.1"]
    result = evaluate(pretrained["run_dir"], "knn", manifest=tmp_path / "m.parquet", settings=FEW, overrides=tolerant)
    assert result["failed_videos"] == 1
    (row,) = (row for row in predictions(result) if row["video_id"] == broken["video_id"])
    assert (row["prediction"], bool(row["failure"])) == (None, True)
    assert result["metrics"]["top1"] <= 7 / 8
    strict = ["data.max_failed_fraction=0"]
    with pytest.raises(
        EvaluationError, match=r"^1 of 24 videos cannot be decoded, more than data\.max_failed_fraction"
    ):
        evaluate(pretrained["run_dir"], "knn", manifest=tmp_path / "m.parquet", settings=FEW, overrides=strict)


def test_what_makes_no_sense_is_refused(pretrained: Run, fine_tuned: Run, manifest: Path, tmp_path: Path) -> None:
    def refusal(*args: Any, **settings: Any) -> str:
        with pytest.raises(AdviseRayError) as caught:
            evaluate(*args, **settings)
        assert isinstance(caught.value, UsageError)
        return str(caught.value)

    run = pretrained["run_dir"]
    assert "is not a run, a checkpoint, a recipe file" in refusal(str(tmp_path / "no"), "knn")
    assert "neither a checkpoint nor a run" in refusal(tmp_path, "knn")
    assert "needs a model that was trained on actions" in refusal(run, "multiview")
    assert "needs a model that was trained on playback rates" in refusal(fine_tuned["run_dir"], "pretext")
    assert "--k: got 20, but there are only 16 training videos" in refusal(run, "knn")
    assert "got 2, but the manifest has 1 official split(s)" in refusal(run, "knn", split=2)
    differs = refusal(run, "knn", overrides=["model.sfu.spatial_size=2"])
    assert differs.startswith("model.sfu.spatial_size: 2, but the TMM of ")
    with pytest.raises(ConfigError, match="temporal_centering: must be false with"):
        evaluate(run, "knn", overrides=["model.tmm.arch=none"])
    rows = read_manifest(manifest).to_pylist()
    for row in rows:
        row["split"] = {"train": "test", "test": "train"}[row["split"]]
    write_manifest(rows, tmp_path / "swapped.parquet")
    seen = refusal(fine_tuned["run_dir"], "multiview", manifest=tmp_path / "swapped.parquet")
    assert "the checkpoint was trained on 16 of the 16 test videos" in seen

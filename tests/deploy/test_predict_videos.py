"""Predictions for files: they are what `evaluate` scores, and every file has a line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import advise_ray
from advise_ray.cli.main import main
from advise_ray.config import load
from advise_ray.deploy import predict_videos
from advise_ray.deploy.predict_videos import list_videos, predict
from advise_ray.errors import UsageError
from advise_ray.evaluation.evaluate_run import evaluate
from advise_ray.evaluation.predictions import read_predictions
from advise_ray.training.local import train_here
from advise_ray.video.augment_draws import view_crops
from advise_ray.video.decode import decode
from advise_ray.video.probe import probe
from advise_ray.video.sampling import spread_clips
from tests.conftest import Configure, Run


@pytest.mark.parametrize(("task", "num_crops"), [("action", 3), ("prp", 1)])
def test_scores_are_the_mean_over_spread_clips_and_crops(
    untrained: dict[str, Path], footage: Path, task: str, num_crops: int
) -> None:
    model, path = advise_ray.load(untrained[task]), footage / "a.mp4"
    info, size = probe(path), model.config.augment
    clips = []
    for indices in spread_clips(info.num_frames, model.config.data.clip, 10, info.fps):
        frames = decode(path, indices, height_px=size.resize_height_px, width_px=size.resize_width_px)
        for top, left in view_crops(size, num_crops):
            clips.append(frames[:, top : top + size.crop_size_px, left : left + size.crop_size_px])
    with torch.inference_mode():
        expected = model(torch.from_numpy(np.stack(clips))).softmax(1).mean(0).numpy()
    found = predict(str(untrained[task]), [str(path)])
    (row,) = found["videos"]
    order = np.argsort(-expected)[:3]
    assert [each["class"] for each in row["predictions"]] == [model.classes[index] for index in order]
    np.testing.assert_allclose([each["score"] for each in row["predictions"]], expected[order], atol=1e-4)
    assert (found["num_crops"], row["note"], row["error"]) == (num_crops, None, None)
    assert max(model.predict(path).values()) == row["predictions"][0]["score"]


def test_a_folder_is_a_table_in_order_and_a_failure_is_a_line_of_it(untrained: dict[str, Path], footage: Path) -> None:
    result = CliRunner().invoke(main, ["predict", str(untrained["prp"]), str(footage)])
    assert result.exit_code == 1
    a, b, text = result.stdout.splitlines()
    assert a.startswith(f"{footage}/a.mp4  ")
    assert a.count("×") == b.count("×") == 3
    assert text.startswith(f"{footage}/text.mp4")
    assert "cannot be read: not a video file" in text
    assert "N times as fast" in result.stderr


def test_json_is_one_object_and_nothing_else(
    untrained: dict[str, Path], footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(footage)
    files = ["b.mp4", "text.mp4", "./a.mp4", "b.mp4"]
    result = CliRunner().invoke(main, ["predict", str(untrained["action"]), *files, "--json"])
    found = json.loads(result.stdout)
    assert [row["path"] for row in found["videos"]] == ["b.mp4", "text.mp4", "./a.mp4"]
    assert (result.exit_code, found["failed_videos"]) == (1, 1)
    assert found["videos"][1]["predictions"] == []


def test_a_video_that_is_shorter_than_a_clip_is_told() -> None:
    config = load(None, ["data.clip={num_frames: 8, frame_stride: 2}"])
    note = predict_videos._note(10, 30.0, config)
    assert note == "10 frames are less than a clip of 15, which repeats its last frame"
    assert predict_videos._note(15, 30.0, config) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.mp4", "does not exist"),
        ("notes.txt", "is not a video but one of texts"),
        ("still.png", "is not a video but one of pictures"),
        ("empty", "the folder is empty"),
        ("", "the path is empty"),
    ],
)
def test_what_is_no_video_is_refused_before_any_work(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "still.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=message) as refused:
        list_videos([str(tmp_path / name) if name else ""])
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.full
def test_a_prediction_is_what_evaluate_scores(fine_tuned: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one in this process, and on Ray."""
    evaluated = evaluate(fine_tuned["run_dir"], "multiview")
    rows = read_predictions(Path(evaluated["evaluation_dir"]) / "predictions.parquet")
    root = Path(load(Path(fine_tuned["run_dir"]) / "config.yaml").data.manifests[0]).parent / "videos"
    files = [str(root / row["video_id"]) for row in rows]
    for few in (len(files), 0):
        monkeypatch.setattr(predict_videos, "FEW", few)
        found = predict(fine_tuned["run_dir"], files)["videos"]
        assert [row["predictions"][0]["class"] for row in found] == [row["predicted_name"] for row in rows]
        for ours, theirs in zip(found, rows, strict=True):
            assert ours["predictions"][0]["score"] == pytest.approx(theirs["score"], abs=1e-3)


@pytest.mark.full
def test_a_run_that_trained_from_a_cache_predicts_from_pixels(
    configure: Configure, features: Path, footage: Path
) -> None:
    run = train_here(configure("from-cache", f"data.features={features}"))
    found = predict(run["run_dir"], [str(footage)])
    assert [row["error"] is None for row in found["videos"]] == [True, True, False]

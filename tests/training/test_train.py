"""Whole runs through Ray Data, Ray Train and MLflow."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advise_ray import tracking
from advise_ray.config import flatten, load
from advise_ray.errors import InterruptedRunError, TrainingError, UsageError
from advise_ray.model.advise import build_advise
from advise_ray.model.ifm import build_ifm
from advise_ray.training import checkpoint
from advise_ray.training.local import train_here
from advise_ray.training.trainer import resume, train
from advise_ray.video.manifest import read_manifest, write_manifest
from advise_ray.video.rejects import read_rejects
from tests.conftest import LOGGED, Configure, Run
from tests.runs import clips_trained_on, losses, train_workers, weights


def test_a_run_leaves_what_the_contract_names(pretrained: Run, configure: Configure) -> None:
    run_dir = Path(pretrained["run_dir"])
    assert pretrained["status"] == "FINISHED"
    assert (pretrained["epochs"], pretrained["steps"], pretrained["clips_seen"]) == (5, 20, 160)
    assert {"train/loss", "train/top1", "val/loss", "val/top1"} <= pretrained["metrics"].keys()
    assert pretrained["metrics"]["val/clips"] == 8 * 3
    assert 0 <= pretrained["rates"]["data_wait_fraction"] <= 1
    assert json.loads((run_dir / "result.json").read_text()).items() <= pretrained.items()
    assert load(run_dir / "config.yaml") == configure("pretrained", *LOGGED, "data.num_decode_actors=1")
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"step_00000016", "step_00000020"}
    assert read_rejects(run_dir / "rejects.parquet") == {}


def test_the_image_model_is_what_it_was(pretrained: Run, configure: Configure) -> None:
    config = configure("any")
    assert pretrained["ifm_sha256"] == build_ifm(config.model.ifm, config.augment.crop_size_px).hash_weights()


def test_mlflow_has_the_run(pretrained: Run) -> None:
    config = load(Path(pretrained["run_dir"]) / "config.yaml")
    client, _ = tracking.connect(config)
    run = client.get_run(pretrained["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    of_sweeps = {key for key in flatten(config) if key.startswith(("search", "tune."))}
    assert run.data.params.keys() == flatten(config).keys() - of_sweeps
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 21))
    assert [point.value for point in history] == pytest.approx(losses(pretrained))
    assert run.data.metrics["val/top1"] == pytest.approx(pretrained["metrics"]["val/top1"])
    assert {"config.yaml", "result.json"} <= {file.path for file in client.list_artifacts(run.info.run_id)}


def test_every_epoch_trains_each_clip_once_and_draws_anew(pretrained: Run, manifest: Path) -> None:
    clips = clips_trained_on(pretrained)
    frames = {}
    for epoch, _, video_id, clip, _, frame_indices, weight in clips:
        assert weight == 1
        frames[epoch, video_id, clip] = frame_indices
    assert len(frames) == len(clips) == 5 * 16 * 2
    in_training = {row["video_id"] for row in read_manifest(manifest).to_pylist() if row["split"] == "train"}
    assert {video_id for _, video_id, _ in frames} == in_training
    changed = [frames[0, video, clip] != frames[1, video, clip] for epoch, video, clip in frames if epoch == 0]
    assert np.mean(changed) > 0.9


def test_without_ray_it_is_the_same_run(pretrained: Run, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advise_ray.backend.session.connect", lambda: pytest.fail("it would have started Ray"))
    monkeypatch.setattr("advise_ray.tracking.RunTracker.start", lambda *_: pytest.fail("MLflow would have a run"))
    here = train_here(configure("here", *LOGGED))
    assert clips_trained_on(here) == clips_trained_on(pretrained)
    np.testing.assert_allclose(losses(here), losses(pretrained), rtol=1e-4)
    assert here["metrics"]["val/loss"] == pytest.approx(pretrained["metrics"]["val/loss"], rel=1e-3)
    assert here.keys() == pretrained.keys() - {"tracking_complete"}


def test_two_workers_are_one(pretrained: Run, configure: Configure) -> None:
    config = configure("two-workers", *LOGGED, "train.num_workers=2")
    two = train(config)
    np.testing.assert_allclose(losses(two), losses(pretrained), rtol=1e-3)
    assert clips_trained_on(two) == clips_trained_on(pretrained)
    for result in (pretrained, two):
        checkpoint.load(Path(result["checkpoint"]), build_advise(config, 3).temporal)
    assert two["metrics"]["val/loss"] == pytest.approx(pretrained["metrics"]["val/loss"], rel=1e-2)


def test_a_killed_worker_is_replaced_and_nothing_is_lost(pretrained: Run, configure: Configure) -> None:
    """With three decode actors, whose number changes nothing, instead of one."""
    killed: list[int] = []

    def kill_in_second_epoch(line: dict[str, Any], _total_steps: int) -> None:
        if line["epoch"] == 1 and not killed:
            (worker,) = train_workers()
            killed.append(worker.pid)
            worker.kill()

    config = configure("killed-worker", *LOGGED, "train.checkpoint_every_steps=3", "data.num_decode_actors=3")
    result = train(config, on_line=kill_in_second_epoch)
    assert killed
    assert result["status"] == "FINISHED"
    assert clips_trained_on(result) == clips_trained_on(pretrained)
    np.testing.assert_allclose(losses(result), losses(pretrained), rtol=1e-5)


def test_from_cached_features_it_is_the_run_that_this_process_would_do(configure: Configure, features: Path) -> None:
    own = (f"data.features={features}", "train.epochs=2")
    by_ray, here = train(configure("cached-by-ray", *own)), train_here(configure("cached-here", *own))
    assert (by_ray["status"], by_ray["clips_seen"]) == ("FINISHED", 2 * 16 * 2)
    np.testing.assert_allclose(losses(by_ray), losses(here), rtol=1e-4)


@pytest.mark.full
def test_a_run_whose_driver_died_behind_the_last_checkpoint_only_has_to_end(pretrained: Run, tmp_path: Path) -> None:
    run_dir = tmp_path / "pretrained"
    shutil.copytree(pretrained["run_dir"], run_dir)
    (run_dir / "result.json").unlink()
    ended = resume(run_dir)
    for key in ("status", "steps", "metrics"):
        assert ended[key] == pretrained[key]


def test_a_run_does_not_go_on_with_another_manifest(pretrained: Run, manifest: Path, tmp_path: Path) -> None:
    run_dir, changed = tmp_path / "run", tmp_path / "m.parquet"
    shutil.copytree(pretrained["run_dir"], run_dir)
    (run_dir / "result.json").unlink()
    write_manifest(read_manifest(manifest).to_pylist()[1:], changed)
    with pytest.raises(UsageError, match=r"m.parquet has changed since the run began"):
        resume(run_dir, [f"data.manifest={changed}"])


def test_a_finished_run_goes_on_elsewhere_for_more_epochs(pretrained: Run, manifest: Path, tmp_path: Path) -> None:
    """Its videos were moved, too, and indexed again."""
    rows = read_manifest(manifest).to_pylist()
    videos = tmp_path / "videos"
    shutil.copytree(Path(pretrained["run_dir"]), tmp_path / "runs" / "moved")
    for row in rows:
        moved = videos / Path(row["path"]).parent.name / Path(row["path"]).name
        moved.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(row["path"], moved)
        row |= {"path": str(moved), "modified_ns": moved.stat().st_mtime_ns}
    write_manifest(rows, tmp_path / "m.parquet")
    more = resume(tmp_path / "runs" / "moved", [f"data.manifest={tmp_path / 'm.parquet'}", "train.epochs=6"])
    assert (more["status"], more["epochs"], more["steps"], more["clips_seen"]) == ("FINISHED", 6, 24, 6 * 16 * 2)
    assert losses(more)[:20] == losses(pretrained)
    assert Path(more["checkpoint"]).is_relative_to(tmp_path)
    config = load(tmp_path / "runs" / "moved" / "config.yaml")
    assert (config.train.epochs, config.storage.path) == (6, str(tmp_path / "runs"))
    client, _ = tracking.connect(config)
    assert len(client.get_metric_history(more["mlflow_run_id"], "train/loss")) == 24


def test_a_finished_run_is_only_reported_again(pretrained: Run, tmp_path: Path) -> None:
    config = Path(pretrained["run_dir"]) / "config.yaml"
    written_ns = config.stat().st_mtime_ns
    assert resume(Path(pretrained["run_dir"])).items() <= pretrained.items()
    assert config.stat().st_mtime_ns == written_ns
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(Path(pretrained["run_dir"]), elsewhere)
    again = resume(elsewhere)
    assert (again["metrics"], again["run_dir"]) == (pretrained["metrics"], str(elsewhere))
    assert Path(str(again["checkpoint"])).is_relative_to(elsewhere)


@pytest.mark.full
def test_two_workers_probe_a_frozen_module_and_a_broken_video_costs_itself_only(
    pretrained: Run, configure: Configure, manifest: Path, tmp_path: Path
) -> None:
    rows = read_manifest(manifest).to_pylist()
    broken = next(row for row in rows if row["split"] == "train")
    (tmp_path / "broken.mp4").write_bytes(Path(broken["path"]).read_bytes()[:2000])
    broken["path"] = str(tmp_path / "broken.mp4")
    write_manifest(rows, tmp_path / "m.parquet")
    own = (f"data.manifest={tmp_path / 'm.parquet'}", "task=action", f"model.init_from={pretrained['run_dir']}")
    probed = train(configure("probed-by-two", *own, "model.freeze_tmm=true", "train.num_workers=2"))
    assert (probed["status"], probed["clips_seen"], probed["metrics"]["val/clips"]) == ("FINISHED", 15 * 2, 8)
    assert read_rejects(Path(probed["run_dir"]) / "rejects.parquet").keys() == {broken["video_id"]}
    before, after = weights(pretrained, "best_checkpoint"), weights(probed)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name.startswith("tmm."))
    assert after["head.3.weight"].shape[0] == 8
    client, _ = tracking.connect(load(Path(probed["run_dir"]) / "config.yaml"))
    best = client.get_model_version_by_alias("advise-ray-action", "best")
    assert best.run_id == probed["mlflow_run_id"]


@pytest.mark.full
def test_two_workers_that_are_told_to_end_go_on_where_they_were(pretrained: Run, configure: Configure) -> None:
    def tell(line: dict[str, Any], _total_steps: int) -> None:
        if line["step"] == 2:  # a fast machine trains ten more steps before it stops
            os.kill(os.getpid(), signal.SIGTERM)

    config = configure("two-told", *LOGGED, "train.num_workers=2", "train.checkpoint_every_epochs=5")
    run_dir = Path(config.storage.path) / "two-told"
    with pytest.raises(InterruptedRunError, match=r"interrupted; step \d+ is saved; resume with: advise-ray train"):
        train(config, on_line=tell)
    ended = json.loads((run_dir / "result.json").read_text())
    assert (ended["status"], ended["steps"]) == ("KILLED", len(losses(run_dir)))
    result = resume(run_dir)
    assert clips_trained_on(result) == clips_trained_on(pretrained)
    np.testing.assert_allclose(losses(result), losses(pretrained), rtol=1e-3)


def test_a_run_that_cannot_go_on_has_failed_and_says_why(configure: Configure, features: Path) -> None:
    """The last test here: it ends the Ray of all."""
    diverging = ("optim.lr=1.0e+30", "optim.grad_clip=null", "optim.warmup_epochs=0")
    config = configure("diverges", f"data.features={features}", *diverging, "train.epochs=9")
    with pytest.raises(TrainingError, match=r"step \d+: the loss or its gradient is not finite .*lower optim.lr"):
        train(config)
    result = json.loads((Path(config.storage.path) / "diverges" / "result.json").read_text())
    assert result["status"] == "FAILED"
    client, _ = tracking.connect(config)
    assert client.get_run(result["mlflow_run_id"]).info.status == "FAILED"

"""Runs in this process: recipes, damaged videos, and a run that is started again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advise_ray.config import load
from advise_ray.errors import InterruptedRunError, TrainingError, UsageError
from advise_ray.storage.jsonl import read_lines
from advise_ray.training import checkpoint
from advise_ray.training.local import open_here, train_here
from advise_ray.video.manifest import read_manifest, write_manifest
from advise_ray.video.rejects import read_rejects
from tests.conftest import Configure, Run
from tests.runs import clips_trained_on, losses, weights


def test_the_rival_trains_on_the_same_path_and_without_a_long_enough_video_there_is_no_metric(
    configure: Configure,
) -> None:
    config = configure("rival", "model.kind=r3d50", "augment.crop_size_px=32", "data.clip.rates=[1, 2, 40]")
    result = train_here(config)
    assert result["val_videos_too_short"] == 8
    assert not [name for name in result["metrics"] if name.startswith("val/")]
    assert load(Path(result["run_dir"]) / "config.yaml") == config
    assert (result["status"], result["clips_seen"]) == ("FINISHED", 32)
    assert result["parameters_trained"] > 31e6


def test_a_pretrained_module_is_fine_tuned_and_probed(pretrained: Run, fine_tuned: Run, configure: Configure) -> None:
    probe = ("task=action", f"model.init_from={pretrained['run_dir']}", "model.freeze_tmm=true", "train.epochs=2")
    probed = train_here(configure("probed", *probe))
    before = weights(pretrained, "best_checkpoint")
    for result, keeps, val_clips in ((fine_tuned, False, 2), (probed, True, 8)):
        assert (result["status"], result["metrics"]["val/clips"]) == ("FINISHED", val_clips)
        assert not [name for name in result["metrics"] if "rate" in name]
        after = weights(result)
        same = [torch.equal(after[name], tensor) for name, tensor in before.items() if name.startswith("tmm.")]
        assert all(same) if keeps else not any(same)
        assert after["head.3.weight"].shape[0] == 8  # the classes of the synthesized videos
    assert probed["clips_seen"] == 2 * 16 * 2
    assert fine_tuned["clips_seen"] == 2 * (16 - 2) * 2  # two of the training videos are held out
    assert probed["parameters_trained"] < fine_tuned["parameters_trained"]


@pytest.fixture
def one_broken(manifest: Path, tmp_path: Path) -> Path:
    """A manifest of which one video has lost its end since it was indexed."""
    rows = read_manifest(manifest).to_pylist()
    broken = next(row for row in rows if row["split"] == "train")
    path = tmp_path / "broken.mp4"
    path.write_bytes(Path(broken["path"]).read_bytes()[:2000])
    broken["path"] = str(path)
    write_manifest(rows, tmp_path / "one_broken.parquet")
    return tmp_path / "one_broken.parquet"


def test_a_broken_video_costs_that_video_only(configure: Configure, one_broken: Path) -> None:
    result = train_here(configure("broken-video", f"data.manifest={one_broken}", "data.log_clips=true"))
    assert (result["status"], result["failed_videos"]) == ("FINISHED", 1)
    ((video_id, reason),) = read_rejects(Path(result["run_dir"]) / "rejects.parquet").items()
    assert reason
    counted = {video: weight for _, _, video, *_, weight in clips_trained_on(result)}
    assert {video for video, weight in counted.items() if weight == 0} == {video_id}
    assert result["clips_seen"] == 15 * 2


def test_too_many_broken_videos_stop_the_run(configure: Configure, one_broken: Path) -> None:
    config = configure("too-many-broken", f"data.manifest={one_broken}", "data.max_failed_fraction=0.01")
    with pytest.raises(TrainingError, match=r"1 of 24 videos cannot be decoded, more than data.max_failed_fraction"):
        train_here(config)
    result = json.loads((Path(config.storage.path) / "too-many-broken" / "result.json").read_text())
    assert (result["status"], result["failed_videos"]) == ("FAILED", 1)


def test_a_broken_validation_video_is_left_out_of_the_metric(
    configure: Configure, manifest: Path, tmp_path: Path
) -> None:
    rows = read_manifest(manifest).to_pylist()
    held_out = [row for row in rows if row["split"] == "test"]
    held_out[0]["path"] = str(tmp_path / "gone.mp4")
    write_manifest(rows, tmp_path / "m.parquet")
    result = train_here(configure("broken-validation", f"data.manifest={tmp_path / 'm.parquet'}"))
    assert result["metrics"]["val/clips"] == (len(held_out) - 1) * 3
    assert read_rejects(Path(result["run_dir"]) / "rejects.parquet").keys() == {held_out[0]["video_id"]}


CACHED = (
    "data.log_clips=true",
    "train.checkpoint_every_steps=3",
    "data.deterministic=true",
    "train.val_every_epochs=1",
)


@pytest.fixture(scope="module")
def whole(configure: Configure, features: Path) -> Run:
    return train_here(configure("whole", f"data.features={features}", *CACHED, "train.epochs=4"))


@pytest.mark.parametrize(("stopped_at", "kept"), [(7, 6), (8, 8), (11, 9)])
def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_been(
    configure: Configure, features: Path, whole: Run, stopped_at: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learning rates, losses, clips and the last weights; the steps since the last checkpoint are done once more."""
    config = configure(f"stopped-{stopped_at}", f"data.features={features}", *CACHED, "train.epochs=4")
    _, begun = open_here(config)
    step_of = begun.learner.train_step

    def stop(block: Any, step: int) -> Any:
        if step == stopped_at:
            raise InterruptedError
        return step_of(block, step)

    monkeypatch.setattr(begun.learner, "train_step", stop)
    with pytest.raises(InterruptedError):
        list(begun.epochs())
    assert open_here(config)[1].state.step == kept
    result = train_here(config)
    assert clips_trained_on(result) == clips_trained_on(whole)
    np.testing.assert_allclose(losses(result), losses(whole), rtol=1e-5)
    assert result["clips_seen"] == whole["clips_seen"] == 4 * 16 * 2
    assert result["metrics"] == pytest.approx(whole["metrics"], rel=1e-4)
    assert rates_of_learning(result) == rates_of_learning(whole)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(result)[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("told_at", [7, 8])
def test_a_run_that_is_told_to_end_loses_nothing(
    configure: Configure, features: Path, whole: Run, told_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a step in mid-epoch nor the validation after an epoch's last step."""
    monkeypatch.setattr("advise_ray.training.metrics_writer.LOOK_EVERY_S", 0.0)
    config = configure(f"told-{told_at}", f"data.features={features}", *CACHED, "train.epochs=4")
    _, begun = open_here(config, should_stop=lambda: begun.state.step >= told_at)
    with pytest.raises(InterruptedRunError, match=f"step {told_at} is saved"):
        list(begun.epochs())
    result = train_here(config)
    assert clips_trained_on(result) == clips_trained_on(whole)
    np.testing.assert_allclose(losses(result), losses(whole), rtol=1e-5)
    assert result["clips_seen"] == whole["clips_seen"]
    assert result["metrics"] == pytest.approx(whole["metrics"], rel=1e-4)
    validated = [
        line["epoch"] for line in read_lines(Path(result["run_dir"]) / "metrics.jsonl") if "val/top1" in line["values"]
    ]
    assert validated == [0, 1, 2, 3]


def rates_of_learning(run: Run) -> list[float]:
    lines = read_lines(Path(run["run_dir"]) / "metrics.jsonl")
    return [line["values"]["optim/lr"] for line in lines if "optim/lr" in line["values"]]


def test_the_best_checkpoint_is_that_of_the_best_validation(configure: Configure, features: Path) -> None:
    result = train_here(configure("best", f"data.features={features}", "train={epochs: 6, val_every_epochs: 1}"))
    lines = read_lines(Path(result["run_dir"]) / "metrics.jsonl")
    top1 = {line["step"]: line["values"]["val/top1"] for line in lines if "val/top1" in line["values"]}
    assert len(top1) == 6
    kept = checkpoint.read_state(Path(result["best_checkpoint"]))
    assert kept.metrics["val/top1"] == max(top1.values()) == top1[kept.step]


def test_a_run_goes_on_by_its_own_configuration_alone(
    configure: Configure, features: Path, manifest: Path, tmp_path: Path
) -> None:
    shutil.copy(manifest, tmp_path / "m.parquet")
    own = (f"data.manifest={tmp_path / 'm.parquet'}", f"data.features={features}", "train.epochs=2")
    told: list[int] = []
    first = train_here(configure("alone", *own), on_epoch=lambda epoch, metrics: told.append(epoch))
    assert told == [0, 1]
    again = train_here(configure("alone", *own))
    assert (again["steps"], again["metrics"]) == (first["steps"], first["metrics"])
    with pytest.raises(UsageError, match=r"alone is a run with another configuration"):
        train_here(configure("alone", *own, "optim.lr=0.5"))
    write_manifest(read_manifest(manifest).to_pylist()[1:], tmp_path / "m.parquet")
    with pytest.raises(UsageError, match=r"m.parquet has changed since the run began"):
        train_here(configure("alone", *own))


def test_one_process_takes_recipes_for_many_workers(configure: Configure, features: Path) -> None:
    many = ("train={num_workers: 4, global_batch_size: 8, use_gpu: false}", f"data.features={features}")
    assert train_here(configure("of-four", *many))["status"] == "FINISHED"


def test_a_pool_is_trained_on_with_hidden_frames_and_fine_tuned_from_with_looks(
    configure: Configure, manifest: Path, features: Path, tmp_path: Path
) -> None:
    rows = read_manifest(manifest).to_pylist()
    for name, part in (("labelled", rows[::2]), ("footage", [{**row, "split": None} for row in rows[1::2]])):
        write_manifest(part, tmp_path / f"{name}.parquet")
    pool = f"data.manifest=[{tmp_path / 'footage.parquet'}, {tmp_path / 'labelled.parquet'}]"
    model = "model={sfu: {standardise: true}, head: {looks_weight: 0.5, normalise: true, pooling: mean_max}}"
    tmm = "model.tmm={num_blocks: 1, inner_dim: 16, out_dim: 32}"
    ifm = "model.ifm={name: 'timm:test_efficientnet', weights: none, precision: fp32}"
    shared = (model, tmm, ifm, f"data.features={features}")
    first = train_here(configure("pool", *shared, pool, "pretext.masked_frames=1", "data.log_clips=true"))
    trained_on = {clip[2] for clip in clips_trained_on(first)}
    held_out = {row["video_id"] for row in rows[::2] if row["split"] == "test"}
    assert trained_on == {row["video_id"] for row in rows} - held_out
    once = train_here(configure("pool-rates", *shared, pool))
    assert losses(first) != losses(once)
    labelled = f"data.manifest={tmp_path / 'labelled.parquet'}"
    own = ("task=action", labelled, "data.val_split=null", "data.val_fraction=0", f"model.init_from={first['run_dir']}")
    result = train_here(configure("from-pool", *shared, *own, "optim.tmm_lr_factor=1e-9", "optim.weight_decay=0"))
    before, after = weights(first), weights(result)
    assert after["head.0.weight"].shape[1] == 2 * 32 + 64  # mean and max of motion, and looks
    for name in ("tmm.0.branch.0.weight", "standardise.running_var"):
        assert torch.allclose(before[name], after[name], rtol=0.5, atol=1e-3)
    (run_dir, target) = Path(result["run_dir"]), Path(first["run_dir"])
    assert load(run_dir / "config.yaml").model.init_from == str(target)

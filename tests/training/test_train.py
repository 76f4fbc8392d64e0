"""Whole runs through Ray Data, Ray Train and MLflow."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from ray.util.state import list_actors
from safetensors.torch import load_file

from advise_ray import tracking
from advise_ray.config import Config, flatten, load, to_yaml
from advise_ray.errors import TrainingError, UsageError
from advise_ray.model.advise import build_advise
from advise_ray.model.ifm import build_ifm
from advise_ray.training import checkpoint
from advise_ray.training.trainer import resume, train
from advise_ray.video.manifest import read_manifest, read_rejects, write_manifest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Configure = Callable[..., Config]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def configure(manifest: Path, storage: Path, tiny: tuple[str, ...]) -> Configure:
    def configure(run_name: str, *overrides: str) -> Config:
        where = [f"data.manifest={manifest}", f"storage.path={storage}", f"tracking.run_name={run_name}"]
        return load(None, [*tiny, *where, "data.log_clips=true", "data.deterministic=true", *overrides])

    return configure


@pytest.fixture(scope="module")
def undisturbed(configure: Configure) -> dict[str, Any]:
    """Five epochs on one worker: the run that others are compared with."""
    return train(configure("undisturbed", "train.epochs=5", "data.num_decode_actors=1"))


def losses(result: dict[str, Any]) -> list[float]:
    lines = map(json.loads, (Path(result["run_dir"]) / "metrics.jsonl").read_text().splitlines())
    steps = {line["step"]: line["values"]["train/loss"] for line in lines if "train/loss" in line["values"]}
    assert list(steps) == list(range(1, len(steps) + 1))
    return list(steps.values())


def clips_trained_on(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    """(epoch, step, video, clip, rate, frames, weight), of a step that was done twice the last ones."""
    steps: dict[int, list[tuple[Any, ...]]] = {}
    newest: dict[int, str] = {}
    for path in sorted((Path(result["run_dir"]) / "clips").glob("*.parquet")):
        attempt = path.name.split("-")[0]
        for row in pq.read_table(path).to_pylist():
            if newest.get(row["step"]) != attempt:
                newest[row["step"]], steps[row["step"]] = attempt, []
            key = (row["epoch"], row["step"], row["video_id"], row["clip"], row["rate_index"])
            steps[row["step"]].append((*key, tuple(row["frame_indices"]), row["weight"]))
    return sorted(clip for clips in steps.values() for clip in clips)


def test_a_run_leaves_what_the_contract_names(undisturbed: dict[str, Any], configure: Configure, storage: Path) -> None:
    run_dir = storage / "undisturbed"
    assert undisturbed["status"] == "FINISHED"
    assert (undisturbed["epochs"], undisturbed["steps"], undisturbed["clips_seen"]) == (5, 20, 160)
    assert {"train/loss", "train/top1", "val/loss", "val/top1"} <= undisturbed["metrics"].keys()
    assert undisturbed["metrics"]["val/clips"] == 8 * 3
    assert 0 <= undisturbed["rates"]["data_wait_fraction"] <= 1
    assert json.loads((run_dir / "result.json").read_text()).items() <= undisturbed.items()
    assert load(run_dir / "config.yaml") == configure("undisturbed", "train.epochs=5", "data.num_decode_actors=1")
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"step_00000016", "step_00000020"}
    assert read_rejects(run_dir / "rejects.parquet") == {}


def test_the_image_model_is_what_it_was(undisturbed: dict[str, Any], configure: Configure) -> None:
    config = configure("any")
    assert undisturbed["ifm_sha256"] == build_ifm(config.model.ifm, config.augment.crop_size_px).hash_weights()


def test_mlflow_has_the_run(undisturbed: dict[str, Any], configure: Configure, storage: Path) -> None:
    config = load(storage / "undisturbed" / "config.yaml")
    client, _ = tracking.connect(config)
    run = client.get_run(undisturbed["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    of_sweeps = {key for key in flatten(config) if key.startswith(("search", "tune."))}
    assert run.data.params.keys() == flatten(config).keys() - of_sweeps
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(1, 21))
    assert run.data.metrics["val/top1"] == pytest.approx(undisturbed["metrics"]["val/top1"])
    assert {"config.yaml", "result.json"} <= {file.path for file in client.list_artifacts(run.info.run_id)}


def test_every_epoch_trains_each_clip_once_and_draws_anew(undisturbed: dict[str, Any]) -> None:
    clips = clips_trained_on(undisturbed)
    frames = {}
    for epoch, _, video_id, clip, _, frame_indices, weight in clips:
        assert weight == 1
        frames[epoch, video_id, clip] = frame_indices
    assert len(frames) == len(clips) == 5 * 16 * 2
    changed = [frames[0, video, clip] != frames[1, video, clip] for epoch, video, clip in frames if epoch == 0]
    assert np.mean(changed) > 0.9


def test_two_workers_are_one(undisturbed: dict[str, Any], configure: Configure) -> None:
    config = configure("two-workers", "train.epochs=5", "train.num_workers=2")
    two = train(config)
    np.testing.assert_allclose(losses(two), losses(undisturbed), rtol=1e-3)
    assert clips_trained_on(two) == clips_trained_on(undisturbed)
    for result in (undisturbed, two):
        checkpoint.load(Path(result["checkpoint"]), build_advise(config, 3).temporal)
    assert two["metrics"]["val/loss"] == pytest.approx(undisturbed["metrics"]["val/loss"], rel=1e-2)


def test_a_killed_worker_is_replaced_and_nothing_is_lost(undisturbed: dict[str, Any], configure: Configure) -> None:
    """With three decode actors, whose number changes nothing, instead of one."""
    killed: list[int] = []

    def kill_in_second_epoch(line: dict[str, Any], _total_steps: int) -> None:
        if line["epoch"] == 1 and not killed:
            (worker,) = list_actors(filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")])
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)

    config = configure("killed-worker", "train.epochs=5", "train.checkpoint_every_steps=3", "data.num_decode_actors=3")
    result = train(config, on_line=kill_in_second_epoch)
    assert killed
    assert result["status"] == "FINISHED"
    assert clips_trained_on(result) == clips_trained_on(undisturbed)
    np.testing.assert_allclose(losses(result), losses(undisturbed), rtol=1e-5)


def test_a_run_whose_driver_died_behind_the_last_checkpoint_only_has_to_end(undisturbed: dict[str, Any]) -> None:
    result = Path(undisturbed["run_dir"]) / "result.json"
    told = result.read_bytes()
    result.unlink()
    ended = resume(Path(undisturbed["run_dir"]))
    result.write_bytes(told)
    for key in ("status", "steps", "metrics"):
        assert ended[key] == undisturbed[key]


def test_a_run_does_not_go_on_with_another_manifest(
    undisturbed: dict[str, Any], configure: Configure, manifest: Path, tmp_path: Path
) -> None:
    run_dir, changed = tmp_path / "run", tmp_path / "m.parquet"
    shutil.copytree(undisturbed["run_dir"], run_dir)
    (run_dir / "result.json").unlink()
    write_manifest(read_manifest(manifest).to_pylist()[1:], changed)
    (run_dir / "config.yaml").write_text(to_yaml(load(run_dir / "config.yaml", [f"data.manifest={changed}"])))
    with pytest.raises(UsageError, match=r"m.parquet has changed since the run began"):
        resume(run_dir)


def test_the_rival_trains_on_the_same_path_and_without_a_long_enough_video_there_is_no_metric(
    configure: Configure,
) -> None:
    result = train(configure("rival", "model.kind=r3d50", "augment.crop_size_px=32", "data.clip.rates=[1, 2, 40]"))
    assert result["val_videos_too_short"] == 8
    assert not [name for name in result["metrics"] if name.startswith("val/")]
    assert yaml.safe_load((Path(result["run_dir"]) / "config.yaml").read_text())["data"]["clip"]["rates"] == [1, 2, 40]
    assert (result["status"], result["clips_seen"]) == ("FINISHED", 32)
    assert result["parameters_trained"] > 31e6


def test_a_pretrained_module_is_fine_tuned_and_probed(undisturbed: dict[str, Any], configure: Configure) -> None:
    action = ["task=action", "data.log_clips=false", f"model.init_from={undisturbed['run_dir']}", "train.epochs=2"]
    tuned = train(configure("fine-tuned", *action))
    probed = train(configure("probed", *action, "model.freeze_tmm=true", "train.num_workers=2"))
    pretrained = load_file(Path(undisturbed["best_checkpoint"]) / "model.safetensors")
    for result, keeps in ((tuned, False), (probed, True)):
        assert (result["status"], result["clips_seen"]) == ("FINISHED", 2 * 16 * 2)
        assert result["metrics"]["val/clips"] == 8
        assert not [name for name in result["metrics"] if "rate" in name]
        tensors = load_file(Path(result["checkpoint"]) / "model.safetensors")
        same = [torch.equal(tensors[name], tensor) for name, tensor in pretrained.items() if name.startswith("tmm.")]
        assert all(same) if keeps else not any(same)
        assert tensors["head.3.weight"].shape[0] == 8  # the classes of the synthesized videos
    assert probed["parameters_trained"] < tuned["parameters_trained"]


def test_a_finished_run_is_only_reported_again(undisturbed: dict[str, Any]) -> None:
    assert resume(Path(undisturbed["run_dir"])).items() <= undisturbed.items()


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
    result = train(configure("broken-video", f"data.manifest={one_broken}"))
    assert result["status"] == "FINISHED"
    assert result["failed_videos"] == 1
    (video_id, reason), *others = read_rejects(Path(result["run_dir"]) / "rejects.parquet").items()
    assert not others
    assert reason
    weights = {weight for _, _, video, *_, weight in clips_trained_on(result) if video == video_id}
    assert weights == {0}
    assert result["clips_seen"] == 15 * 2


def test_too_many_broken_videos_stop_the_run(configure: Configure, storage: Path, one_broken: Path) -> None:
    config = configure("too-many-broken", f"data.manifest={one_broken}", "data.max_failed_fraction=0.01")
    with pytest.raises(
        TrainingError, match=r"1 of 24 videos cannot be decoded, more than data.max_failed_fraction=0.0"
    ):
        train(config)
    result = json.loads((storage / "too-many-broken" / "result.json").read_text())
    assert result["status"] == "FAILED"
    client, _ = tracking.connect(config)
    assert client.get_run(result["mlflow_run_id"]).info.status == "FAILED"

"""Whole cache jobs, and training from their caches, with real Ray and real videos."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from advise_ray.cache.cache_plan import plan_cache
from advise_ray.cache.part_encoder import EncodePart
from advise_ray.cache.store import FeatureStore
from advise_ray.cache.writer import CacheResult, write_cache
from advise_ray.config import Config
from advise_ray.errors import CacheError, ConfigError, InterruptedRunError, UsageError
from advise_ray.evaluation.evaluate_run import evaluate
from advise_ray.evaluation.predictions import read_predictions
from advise_ray.evaluation.protocol import Settings
from advise_ray.training.batch_schedule import Batch
from advise_ray.training.clip_reader import ClipReader
from advise_ray.training.local import train_here
from advise_ray.training.trainer import train
from advise_ray.video.manifest import read_manifest, write_manifest
from tests.conftest import Configure
from tests.runs import clips_trained_on, eventually, losses, set_options

PLAIN = ("augment.random_crop=false", "augment.flip=false", "augment.colour_jitter=0")


def make(config: Config, folder: Path) -> CacheResult:
    return write_cache(plan_cache(config, str(folder)))


def test_cached_and_live_training_give_the_same_losses(configure: Configure, features: Path) -> None:
    own = (*PLAIN, "train.epochs=13", "train.val_every_epochs=13", "data.log_clips=true")
    live = train_here(configure("plain-live", *own))
    cached = train_here(configure("plain-cached", *own, f"data.features={features}"))
    assert len(losses(live)) == 52
    np.testing.assert_allclose(losses(cached), losses(live), rtol=1e-3)
    assert cached["metrics"]["val/loss"] == pytest.approx(live["metrics"]["val/loss"], rel=1e-3)
    assert clips_trained_on(cached) == clips_trained_on(live)


@pytest.mark.full
def test_two_workers_train_on_the_same(configure: Configure, features: Path) -> None:
    own = (*PLAIN, f"data.features={features}", "train.epochs=2")
    alone = train_here(configure("cached-alone", *own))
    two = train(configure("cached-two", *own, "train.num_workers=2", "train.cpus_per_worker=0.5"))
    np.testing.assert_allclose(losses(two), losses(alone), rtol=1e-4)


def views_shown(reader: ClipReader, store: FeatureStore, *, train: bool) -> set[int]:
    """Of the first video, over a dozen epochs."""
    shown = set()
    for epoch in range(12):
        block = reader(Batch(train, epoch, 0, np.zeros(2, int), np.arange(2), np.ones(2, np.float32)))
        for features, frames in zip(block.features, block.frame_indices, strict=True):
            every = np.empty((3, *features.shape), dtype=np.float16)
            store.read_into(every, reader.videos[0], np.tile(frames, (3, 1)), [0, 1, 2])
            shown |= {view for view in range(3) if np.array_equal(every[view], features)}
    return shown


def test_views_are_drawn_once_and_all_of_them_are_shown(configure: Configure, manifest: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.parquet"
    write_manifest(read_manifest(manifest).to_pylist()[::3], few)
    given = (f"data.manifest={few}", "cache.views=3", "cache.frame_step=2")
    config = configure("views", *given, "data.clip.frame_stride=3")
    plan = plan_cache(config, str(tmp_path / "views"))
    write_cache(plan)
    store, video = FeatureStore(str(tmp_path / "views")), plan.videos[0]
    out = np.empty((3, 2, *store.identity.frame_shape), dtype=np.float16)
    store.read_into(out, video, np.tile([0, 50], (3, 1)), [0, 1, 2])
    assert not np.allclose(out[0], out[1])
    assert not np.allclose(out[1], out[2])
    make(configure("any", *given, "seed=5"), tmp_path / "again")
    again = np.empty_like(out)
    FeatureStore(str(tmp_path / "again")).read_into(again, video, np.tile([0, 50], (3, 1)), [0, 1, 2])
    np.testing.assert_array_equal(again, out)
    where = (f"data.manifest={few}", f"data.features={tmp_path / 'views'}")
    own = (*where, "data.clip.frame_stride=3", "data.log_clips=true")
    result = train_here(configure("views", *own))
    assert all(frame % 2 == 0 for *_, frames, _ in clips_trained_on(result) for frame in frames)
    reader = ClipReader(configure("any", *own), plan.videos)
    assert (views_shown(reader, store, train=True), views_shown(reader, store, train=False)) == ({0, 1, 2}, {0})
    with pytest.raises(ConfigError, match=r"would be shown twice.*\n.*does not fit"):
        train_here(configure("any", *where))
    with pytest.raises(ConfigError, match=r"augment.flip: the cache has True, the recipe False"):
        train_here(configure("any", *own, "augment.flip=false"))


def test_a_cache_of_another_model_is_refused(configure: Configure, features: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train_here(configure("any", f"data.features={features}", "model.sfu.channels=8", "augment.crop_size_px=64"))
    assert caught.value.problems[:2] == (
        "augment.crop_size_px: the cache has 96, the recipe 64",
        "model.sfu.spatial_size: the cache has 3, the recipe 2",
    )


def test_videos_are_added_and_changed_ones_done_again(configure: Configure, manifest: Path, tmp_path: Path) -> None:
    rows = read_manifest(manifest).to_pylist()
    few, all_of_them = tmp_path / "few.parquet", tmp_path / "all.parquet"
    write_manifest(rows[:20], few)
    write_manifest([rows[0] | {"bytes": 1}, *rows[1:]], all_of_them)
    out = tmp_path / "cache"
    assert make(configure("any", f"data.manifest={few}"), out)["encoded"] == 20
    with pytest.raises(UsageError, match=r"lacks 5 of 24 videos"):
        train_here(configure("any", f"data.manifest={all_of_them}", f"data.features={out}"))
    assert make(configure("any", f"data.manifest={all_of_them}"), out)["encoded"] == 5
    assert make(configure("any", f"data.manifest={all_of_them}"), out)["encoded"] == 0
    added = train_here(configure("added", f"data.manifest={all_of_them}", f"data.features={out}"))
    assert (added["status"], added["failed_videos"]) == ("FINISHED", 0)


def test_damaged_parts_are_masked_in_training_and_made_again_by_the_job(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advise_ray.cache.grouping.GROUP_BYTES", 2**23)  # several parts
    out = tmp_path / "cache"
    make(configure("any"), out)
    part = next(iter(sorted(out.glob("part-*"), key=lambda path: path.stat().st_size)))
    part.write_bytes(part.read_bytes()[:-10])
    result = train_here(configure("damaged", f"data.features={out}", "data.max_failed_fraction=0.5"))
    assert result["failed_videos"] > 0
    rejects = pq.read_table(Path(result["run_dir"]) / "rejects.parquet").column("reason").to_pylist()
    assert all(part.name in reason for reason in rejects)
    again = make(configure("any"), out)
    assert again["damaged_parts"] == [part.name]
    assert f"{part.name} is damaged" in caplog.text
    assert again["encoded"] > 0
    assert train_here(configure("mended", f"data.features={out}"))["failed_videos"] == 0


def test_a_video_that_fails_is_a_reject_and_fails_in_training_too(
    configure: Configure, manifest: Path, tmp_path: Path
) -> None:
    rows = sorted(read_manifest(manifest).to_pylist(), key=lambda row: row["split"] == "test")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(Path(rows[3]["path"]).read_bytes()[:2000])
    rows[3]["path"] = str(broken)
    listed = tmp_path / "manifest.parquet"
    write_manifest(rows, listed)
    result = make(configure("any", f"data.manifest={listed}"), tmp_path / "cache")
    assert (result["encoded"], result["failed_videos"]) == (23, 1)
    rejects = pq.read_table(tmp_path / "cache" / "rejects.parquet").to_pylist()
    assert [row["video_id"] for row in rejects] == [rows[3]["video_id"]]
    assert rejects[0]["reason"]
    others = tmp_path / "others.parquet"
    write_manifest(rows[4:], others)
    assert make(configure("any", f"data.manifest={others}"), tmp_path / "cache")["failed_videos"] == 0
    result = train_here(configure("rejected", f"data.manifest={listed}", f"data.features={tmp_path / 'cache'}"))
    assert (result["failed_videos"], result["clips_seen"]) == (1, 2 * 15)


@pytest.mark.full
def test_a_full_disk_ends_the_job_and_what_is_there_stays(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advise_ray.cache.grouping.GROUP_BYTES", 2**23)
    real, calls = EncodePart.__call__, []

    def full(self: EncodePart, *args: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            monkeypatch.setattr("advise_ray.cache.part_encoder.write_part", _no_room)
        return real(self, *args)

    monkeypatch.setattr(EncodePart, "__call__", full)
    monkeypatch.setattr("advise_ray.cache.writer.write_index", _no_room)  # not even for what tells it
    with pytest.raises(CacheError, match=r"No space left on device; \d+ of 24 videos are kept"):
        make(configure("any"), tmp_path / "cache")
    monkeypatch.undo()
    again = plan_cache(configure("any"), str(tmp_path / "cache"))
    assert 0 < len(again.missing) < 24
    assert write_cache(again)["encoded"] == len(again.missing)


def _no_room(*_: Any) -> str:
    raise OSError(28, "No space left on device")


@pytest.mark.full
def test_evaluation_finds_the_same_in_what_is_cached(configure: Configure, features: Path) -> None:
    run_dir = train_here(configure("evaluated", *PLAIN, f"data.features={features}"))["run_dir"]
    found = []
    for overrides in ([], ["data.features=null"]):
        result = evaluate(run_dir, "knn", settings=Settings(num_clips=2, k=5), overrides=overrides)
        found.append(read_predictions(result["predictions"]))  # the next one writes to the same file
    for cached, live in zip(*found, strict=True):
        assert (cached["video_id"], cached["prediction"]) == (live["video_id"], live["prediction"])
        assert cached["score"] == pytest.approx(live["score"], abs=0.01)
    assert evaluate(run_dir, "pretext")["metrics"]["chance"] == pytest.approx(1 / 3)


def test_an_interrupted_job_goes_on_to_the_same_features(
    configure: Configure, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advise_ray.cache.grouping.GROUP_BYTES", 2**23)  # several parts

    def interrupt(done: int, total: int) -> None:
        if done >= total // 2:
            os.kill(os.getpid(), signal.SIGTERM)

    out = str(tmp_path / "cache")
    with pytest.raises(InterruptedRunError, match=r"interrupted; \d+ of 24 videos are kept; the same command"):
        write_cache(plan_cache(configure("any"), out), interrupt)
    again = plan_cache(configure("any"), out)
    assert 0 < len(again.missing) <= 12
    result = write_cache(again)
    assert (result["encoded"], result["failed_videos"], result["damaged_parts"]) == (len(again.missing), 0, [])
    ours, theirs = FeatureStore(out), FeatureStore(str(features))
    for video in again.videos:
        frames, read = np.arange(120)[None], np.empty((2, 120, *ours.identity.frame_shape), dtype=np.float16)
        ours.read_into([read[0]], video, frames, [0])
        theirs.read_into([read[1]], video, frames, [0])
        np.testing.assert_allclose(read[0], read[1], atol=1e-2 * np.abs(read[1]).max())


@pytest.mark.full
def test_a_killed_job_goes_on_and_a_second_one_is_refused(
    manifest: Path, beside: dict[str, str], tiny: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{}")
    # 6 views at 120 px take some seconds, so that there is a middle to kill it in.
    settings = [*tiny, f"data.manifest={manifest}", "cache.views=6"]
    command = [sys.executable, "-c", _MANY_PARTS, "cache", "--config", str(recipe), "--out", str(out), "--json"]
    command += set_options(settings)
    first = subprocess.Popen(command, env=beside, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: any(out.glob("part-*")), alive=first)
    second = subprocess.run(command, env=beside, capture_output=True, text=True, timeout=120, check=False)
    if first.poll() is None:
        assert second.returncode == 2
        assert "another `advise-ray cache` is writing" in second.stderr
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = len(list(out.glob("part-*")))
    assert kept
    done = subprocess.run(command, env=beside, capture_output=True, text=True, timeout=240, check=True)
    result = json.loads(done.stdout)
    assert result["encoded"] < 24
    assert not list(out.glob(".part-*"))


_MANY_PARTS = (
    "import advise_ray.cache.grouping as e; e.GROUP_BYTES = 2**23; from advise_ray.cli.main import main; main()"
)

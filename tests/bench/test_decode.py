from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advise_ray.bench import decode as bench
from advise_ray.training.batch_schedule import build_schedule
from advise_ray.training.clip_reader import read_here
from advise_ray.video.manifest import Videos, read_manifest


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bench.make_manifest(tmp_path_factory.mktemp("bench") / "videos", 4, 2, num_listed=16)


def test_the_plain_loops_decode_the_clips_of_the_run(manifest: Path) -> None:
    assert read_manifest(manifest).column("num_frames").to_pylist() == [2 * 30] * 16
    config = bench.bench_config(manifest, clips_per_video=2, num_clips=64)
    table = read_manifest(manifest)
    blocks = list(read_here(config, build_schedule(config, table), Videos(table), 0, 0, 1, pinned=False))
    ours = [np.sort(indices) for block in blocks for indices in block.frame_indices.reshape(-1, 2 * 8)]
    theirs = [np.sort(frames) for _, frames in bench._work(config)]
    assert len(ours) == len(theirs) == 2 * 16  # two epochs of sixteen videos
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.full
def test_the_bench_reports_what_the_contract_names(
    local_ray: None, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 1)
    figures = bench.measure(manifest, 1, 80)
    assert figures.keys() == {"pipeline_clips_per_s", "plain_decord_clips_per_s", "decode_everything_clips_per_s"}
    assert bench.resident_growth_bytes(next(manifest.parent.glob("*.mp4")), 300, 50) < 100 * 2**20

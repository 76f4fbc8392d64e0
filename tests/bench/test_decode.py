from __future__ import annotations

from pathlib import Path

import pytest

from advise_ray.bench import decode as bench
from advise_ray.video.manifest import read_manifest


@pytest.mark.full
def test_three_arms_decode_the_same_clips(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 1)
    manifest = bench.make_manifest(tmp_path / "videos", 8, 4)
    assert read_manifest(manifest).column("num_frames").to_pylist() == [120] * 32
    figures = bench.measure(manifest, 1, 320)
    assert figures.keys() == {"pipeline_clips_per_s", "plain_decord_clips_per_s", "decode_everything_clips_per_s"}
    assert all(value > 0 for value in figures.values())
    assert figures["plain_decord_clips_per_s"] > figures["decode_everything_clips_per_s"]
    assert bench.resident_growth_bytes(next(manifest.parent.glob("*.mp4")), 300, 50) < 100 * 2**20

"""Decoding a manifest's videos again, on real Ray Data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from advise_ray import dataset
from advise_ray.errors import UsageError
from advise_ray.video.annotations import read_folder
from advise_ray.video.rejects import read_rejects


@pytest.fixture
def indexed(local_ray: None, synthesized: Path, tmp_path: Path) -> Path:
    """A manifest of four videos."""
    (tmp_path / "videos").mkdir()
    for number, video in enumerate(sorted(synthesized.rglob("*.mp4"))[:4]):
        shutil.copy(video, tmp_path / "videos" / f"{number}.mp4")
    dataset.index(read_folder(tmp_path / "videos"), tmp_path / "videos", tmp_path / "manifest.parquet")
    return tmp_path


def test_what_has_broken_vanished_or_changed_is_named_and_dropped(indexed: Path, shared_data: Path) -> None:
    videos = indexed / "videos"
    content = (videos / "0.mp4").read_bytes()
    (videos / "0.mp4").write_bytes(content[: len(content) // 2])
    (videos / "1.mp4").unlink()
    shutil.copy(shared_data / "robustness" / "clip-video-encode" / "vid2.mp4", videos / "2.mp4")
    rejects, clean = indexed / "rejects.parquet", indexed / "clean.parquet"
    seen: list[tuple[int, int]] = []
    summary = dataset.check(
        indexed / "manifest.parquet", rejects, drop=clean, on_progress=lambda *progress: seen.append(progress)
    )
    assert (summary["videos"], summary["rejected"], seen[-1]) == (4, 3, (4, 4))
    reasons = read_rejects(rejects)
    assert list(reasons) == ["0.mp4", "1.mp4", "2.mp4"]
    assert reasons["0.mp4"].startswith("not a video file, or an incomplete one")
    assert reasons["1.mp4"] == "no such file"
    assert reasons["2.mp4"] == (
        "changed since it was indexed: num_frames 120 → 134, width 320 → 640, height 240 → 360, decoder decord → pyav"
    )
    assert pq.read_table(clean).column("video_id").to_pylist() == ["3.mp4"]


def test_no_manifest_is_written_over(indexed: Path) -> None:
    manifest, other = indexed / "manifest.parquet", indexed / "other.parquet"
    before = manifest.read_bytes()
    for rejects, drop in ((manifest, None), (other, manifest), (other, other)):
        with pytest.raises(UsageError, match="must be different files"):
            dataset.check(manifest, rejects, drop=drop)
    assert manifest.read_bytes() == before


def test_a_clean_manifest_without_a_video_is_not_written(indexed: Path) -> None:
    for video in (indexed / "videos").iterdir():
        video.unlink()
    with pytest.raises(UsageError, match="no video is left because all 4 videos fail"):
        dataset.check(indexed / "manifest.parquet", indexed / "rejects.parquet", drop=indexed / "clean.parquet")
    assert not (indexed / "clean.parquet").exists()


def test_whole_videos_pass(indexed: Path) -> None:
    summary = dataset.check(indexed / "manifest.parquet", indexed / "rejects.parquet")
    assert (summary["videos"], summary["rejected"]) == (4, 0)
    assert read_rejects(indexed / "rejects.parquet") == {}

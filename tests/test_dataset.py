"""Indexing on real Ray Data."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from advise_ray import dataset
from advise_ray.errors import UsageError
from advise_ray.video.annotations import read_folder, read_ucf101
from advise_ray.video.manifest import SCHEMA, read_rejects

pytestmark = pytest.mark.ray


def test_a_manifest_says_what_is_in_each_file(manifest: Path) -> None:
    table = pq.read_table(manifest)
    assert table.schema.equals(SCHEMA)
    rows = {row["video_id"]: row for row in table.to_pylist()}
    assert list(rows) == sorted(rows)
    row = rows["left/v_left_g02_c01.mp4"]
    assert (row["label"], row["class_name"], row["split"]) == (1, "left", "train")
    assert (row["num_frames"], row["fps"], row["width"], row["height"]) == (120, 30, 320, 240)
    assert row["bytes"] == Path(row["path"]).stat().st_size
    assert [row["split"] for row in rows.values()].count("test") == 8


def test_what_cannot_be_read_or_found_is_counted_and_named(local_ray: None, synthesized: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    (videos / "left").mkdir(parents=True)
    whole = synthesized / "videos" / "left" / "v_left_g01_c01.mp4"
    (videos / "left" / "whole.mp4").symlink_to(whole)
    (videos / "left" / "half.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (videos / "left" / "empty.mp4").touch()
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 left\n")
    (lists / "trainlist01.txt").write_text("left/whole.mp4 1\nleft/half.mp4 1\nleft/empty.mp4 1\n")
    (lists / "testlist01.txt").write_text("left/never_downloaded.mp4\n")
    out = tmp_path / "out" / "manifest.parquet"
    seen: list[tuple[int, int]] = []
    summary = dataset.index(
        read_ucf101(videos, lists, 1), videos, out, on_progress=lambda *progress: seen.append(progress)
    )
    assert (summary.videos, summary.rejected, summary.missing, summary.classes) == (1, 2, 1, 1)
    assert pq.read_table(out).num_rows == 1
    reasons = read_rejects(Path(str(summary.rejects)))
    assert reasons["left/empty.mp4"] == "empty file"
    assert reasons["left/never_downloaded.mp4"] == "listed, but there is no such file"
    assert reasons["left/half.mp4"]
    assert seen[-1] == (3, 3)


def test_nothing_is_written_where_no_video_can_be_read(local_ray: None, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(UsageError, match=r"none of the 1 videos can be read; the first: not a video"):
        dataset.index(read_folder(videos), videos, tmp_path / "manifest.parquet")
    assert list(tmp_path.iterdir()) == [videos]


@pytest.mark.slow
def test_real_videos(local_ray: None, shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "survfight"
    listing = read_ucf101(root / "videos", root / "ucfTrainTestlist", 1)
    summary = dataset.index(listing, root / "videos", tmp_path / "manifest.parquet")
    assert (summary.videos, summary.rejected, summary.missing, summary.classes) == (120, 0, 0, 2)
    table = pq.read_table(tmp_path / "manifest.parquet").to_pydict()
    assert [table["split"].count(split) for split in ("train", "test")] == [80, 40]
    assert min(table["num_frames"]) > 0

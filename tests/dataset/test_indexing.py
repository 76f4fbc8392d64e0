"""Indexing on real Ray Data."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from advise_ray import dataset
from advise_ray.errors import UsageError
from advise_ray.video.annotations import ListedVideo, read_folder, read_ucf101
from advise_ray.video.manifest import SCHEMA, Videos, read_manifest
from advise_ray.video.probe import Limits
from advise_ray.video.rejects import read_rejects


def counts(summary: dict[str, Any]) -> tuple[int, ...]:
    return tuple(summary[name] for name in ("videos", "rejected", "missing", "classes"))


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
    assert counts(summary) == (1, 2, 1, 1)
    assert pq.read_table(out).num_rows == 1
    reasons = read_rejects(Path(summary["rejects"]))
    assert reasons["left/empty.mp4"] == "empty file"
    assert reasons["left/never_downloaded.mp4"] == "the list names it, but the file does not exist"
    assert reasons["left/half.mp4"]
    assert seen[-1] == (3, 3)
    assert summary["splits"] == {
        "train": {"listed": 3, "readable": 1, "missing": 0},
        "test": {"listed": 1, "readable": 0, "missing": 1},
    }
    assert (summary["sizes_px"], summary["fps"], summary["codecs"]) == ({"320×240": 1}, {"30": 1}, {"h264": 1})
    assert summary["first_problems"]["left/never_downloaded.mp4"] == "the list names it, but the file does not exist"
    assert len(summary["first_problems"]) == 3
    assert summary["duration_s"] == {"min": 4.0, "median": 4.0, "max": 4.0}


def test_there_is_no_manifest_where_no_video_can_be_read(local_ray: None, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(b"no video" * 100)
    out = tmp_path / "manifest.parquet"
    with pytest.raises(
        UsageError, match=r"none of the 1 videos can be read; first reason: not a video.*; see all reasons in "
    ):
        dataset.index(read_folder(videos), videos, out)
    assert {path.name for path in tmp_path.iterdir()} == {"videos", "manifest.parquet.rejects.parquet"}


@pytest.fixture
def copies(synthesized: Path, tmp_path: Path) -> Path:
    """Three whole videos and a broken one."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, video in enumerate(sorted(synthesized.rglob("*.mp4"))[:3]):
        (folder / f"{number}.mp4").write_bytes(video.read_bytes())
    (folder / "broken.mp4").write_bytes(b"no video" * 100)
    return folder


def test_only_what_has_changed_is_read_again(local_ray: None, copies: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest.parquet"
    first = dataset.index(read_folder(copies), copies, out)
    assert (first["videos"], first["rejected"], first["probed"]) == (3, 1, 4)
    before = pq.read_table(out)
    again = dataset.index(read_folder(copies), copies, out)
    assert (again["videos"], again["rejected"], again["probed"]) == (3, 1, 0)
    assert pq.read_table(out).equals(before)
    assert list(read_rejects(Path(again["rejects"]))) == ["broken.mp4"]
    (copies / "new.mp4").write_bytes((copies / "0.mp4").read_bytes())
    (copies / "1.mp4").write_bytes((copies / "2.mp4").read_bytes())
    os.utime(copies / "1.mp4", ns=(0, 1))
    (copies / "2.mp4").unlink()
    changed = dataset.index(read_folder(copies), copies, out)
    assert (changed["videos"], changed["probed"]) == (3, 2)
    assert pq.read_table(out).column("video_id").to_pylist() == ["0.mp4", "1.mp4", "new.mp4"]


def test_a_folder_that_grows_keeps_the_manifests_of_earlier_runs(local_ray: None, copies: Path, tmp_path: Path) -> None:
    first = dataset.prepare(str(copies), tmp_path / "runs")
    before = first.read_bytes()
    assert dataset.prepare(str(copies), tmp_path / "runs") == first
    (copies / "new.mp4").write_bytes((copies / "0.mp4").read_bytes())
    second = dataset.prepare(str(copies), tmp_path / "runs")
    assert (len(read_manifest(first)), len(read_manifest(second))) == (3, 4)
    assert first.read_bytes() == before


def test_an_interrupted_index_goes_on_where_it_was(local_ray: None, copies: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest.parquet"

    def interrupt(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset.index(read_folder(copies), copies, out, on_progress=interrupt)
    assert not out.exists()
    journal = tmp_path / "manifest.parquet.partial.jsonl"
    journal.write_text(journal.read_text() + '{"video_id": "torn')
    summary = dataset.index(read_folder(copies), copies, out)
    assert (summary["videos"], summary["rejected"], summary["probed"]) == (3, 1, 1)
    assert not journal.exists()


def test_what_may_pass_is_read_again(local_ray: None, copies: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest.parquet"
    strict = dataset.index(read_folder(copies), copies, out, limits=Limits(max_pixels=320 * 240))
    assert strict["videos"] == 3
    with pytest.raises(UsageError, match=r"320×240 is more than the 1000 pixels allowed"):
        dataset.index(read_folder(copies), copies, tmp_path / "none.parquet", limits=Limits(max_pixels=1000))
    assert dataset.index(read_folder(copies), copies, tmp_path / "none.parquet")["videos"] == 3


def test_limits_and_lists_count_for_what_is_known_too(local_ray: None, copies: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest.parquet"
    dataset.index(read_folder(copies), copies, out)
    with pytest.raises(UsageError, match="320×240 is more than the 1000 pixels allowed"):
        dataset.index(read_folder(copies), copies, out, limits=Limits(max_pixels=1000))
    wider = dataset.index(read_folder(copies), copies, out)
    assert (wider["videos"], wider["rejected"]) == (3, 1)


def test_a_known_file_gets_the_id_of_the_new_root(local_ray: None, copies: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest.parquet"
    dataset.index(read_folder(copies), copies, out)
    above = dataset.index(read_folder(tmp_path), tmp_path, out)
    assert above["probed"] == 0
    assert pq.read_table(out).column("video_id").to_pylist() == [f"videos/{number}.mp4" for number in range(3)]


def test_what_the_system_refuses_is_tried_again(local_ray: None, copies: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest.parquet"
    (copies / "0.mp4").unlink()
    (copies / "0.mp4").symlink_to(tmp_path / "later.mp4")
    first = dataset.index(read_folder(copies), copies, out)
    assert read_rejects(Path(first["rejects"]))["0.mp4"] == "no such file"
    (tmp_path / "later.mp4").write_bytes((copies / "1.mp4").read_bytes())
    assert dataset.index(read_folder(copies), copies, out)["videos"] == 3


def test_an_out_that_is_something_else_is_left_alone(local_ray: None, copies: Path, tmp_path: Path) -> None:
    out = tmp_path / "notes.txt"
    out.write_text("mine")
    with pytest.raises(UsageError, match=r"^--out: .*notes.txt exists and is not a manifest"):
        dataset.index(read_folder(copies), copies, out)
    assert out.read_text() == "mine"


def test_a_dive_that_begins_after_the_files_end_is_rejected(local_ray: None, copies: Path, tmp_path: Path) -> None:
    listing = read_folder(copies)
    listing.found = [ListedVideo("0.mp4", None, None, 0, 999), ListedVideo("1.mp4", None, None, 120, 130)]
    out = tmp_path / "manifest.parquet"
    summary = dataset.index(listing, copies, out)
    assert [video.frames for video in Videos(read_manifest(out))] == [range(120)]
    assert read_rejects(Path(summary["rejects"])) == {
        "1.mp4": "the list starts at frame 120, but the video has 120 frames"
    }
    assert summary["end_before_listed"] == 1  # 0.mp4, which is taken as far as it goes


def test_an_out_that_is_a_folder_is_refused_before_anything_is_read(copies: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--out: .* is a folder; give a file name"):
        dataset.index(read_folder(copies), copies, tmp_path)


def test_narrower_limits_hold_for_files_that_were_read_before(local_ray: None, copies: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest.parquet"
    dataset.index(read_folder(copies), copies, out)
    before = out.read_bytes()
    with pytest.raises(UsageError, match="has more than 100 frames"):
        dataset.index(read_folder(copies), copies, out, limits=Limits(max_frames=100))
    assert out.read_bytes() == before


@pytest.mark.full
def test_real_videos(local_ray: None, shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "survfight"
    listing = read_ucf101(root / "videos", root / "ucfTrainTestlist", 1)
    summary = dataset.index(listing, root / "videos", tmp_path / "manifest.parquet")
    assert counts(summary) == (120, 0, 0, 2)
    table = pq.read_table(tmp_path / "manifest.parquet").to_pydict()
    assert [table["split"].count(split) for split in ("train", "test")] == [80, 40]
    assert min(table["num_frames"]) > 0


def test_damaged_videos_are_kept_in_part_where_that_is_asked_for(
    local_ray: None, synthesized: Path, tmp_path: Path
) -> None:
    copies, out = tmp_path / "videos", tmp_path / "manifest.parquet"
    copies.mkdir()
    for name, video in zip(("hole.mp4", "whole.mp4"), sorted(synthesized.rglob("*.mp4")), strict=False):
        data = bytearray(video.read_bytes())
        if name == "hole.mp4":
            hole = slice(len(data) * 2 // 5, len(data) * 3 // 5)
            data[hole] = bytes(len(data[hole]))
        (copies / name).write_bytes(data)
    listing = read_folder(copies)
    first = dataset.index(listing, copies, out)
    assert (first["videos"], first["rejected"], first["kept_damaged"]) == (1, 1, 0)
    (note,) = first["notes"]
    assert re.fullmatch(r"--keep-damaged would add [\d.e-]+ hours of readable video from 1 damaged video\(s\)", note)
    kept = dataset.index(listing, copies, out, keep_damaged=True)
    assert (kept["videos"], kept["probed"], kept["kept_damaged"], kept["notes"]) == (2, 1, 1, [])
    row = read_manifest(out).to_pylist()[0]
    assert row["damage"].startswith("damaged: ")
    assert 8 <= row["end_frame"] - row["start_frame"] < 120
    assert dataset.check(out, tmp_path / "bad.parquet")["rejected"] == 0
    listing.found = [replace(video, end_frame=row["start_frame"] + 4) for video in listing.found]
    assert dataset.index(listing, copies, out, keep_damaged=True)["rejected"] == 1  # four of its frames are too few
    assert dataset.index(read_folder(copies), copies, out)["kept_damaged"] == 0

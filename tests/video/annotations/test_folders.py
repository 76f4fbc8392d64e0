"""Folders of videos, as people arrange them."""

from __future__ import annotations

import os
from pathlib import Path

from advise_ray.video.annotations import ListedVideo, read_folder
from tests.video.annotations.lists import message, place


def test_a_flat_folder_has_no_labels(tmp_path):
    videos = place(tmp_path, "b.MKV", "a.mp4", "deep/er/c.webm", "notes.txt", "a.mp4.partial", "._a.mp4")
    listing = read_folder(videos)
    assert listing.classes == []
    assert listing.found == [ListedVideo("a.mp4"), ListedVideo("b.MKV"), ListedVideo("deep/er/c.webm")]


def test_sounds_are_named_and_other_files_counted(tmp_path):
    listing = read_folder(place(tmp_path, "run/a.mp4", "run/a.mp3", "jump/b.mp4", "notes.txt", "x.TXT", "LICENSE"))
    assert [video.path for video in listing.found] == ["jump/b.mp4", "run/a.mp4"]
    assert listing.problems == {"run/a.mp3": "no video: a .mp3 file"}
    assert listing.other_files == {".txt": 2, "none": 1}


def test_a_folder_for_each_class(tmp_path):
    listing = read_folder(place(tmp_path, "run/a.mp4", "jump/b.mp4", "run/c.mp4"))
    assert listing.classes == ["jump", "run"]
    assert listing.found == [
        ListedVideo("jump/b.mp4", "jump"),
        ListedVideo("run/a.mp4", "run"),
        ListedVideo("run/c.mp4", "run"),
    ]


def test_a_folder_for_each_split_and_in_it_for_each_class(tmp_path):
    listing = read_folder(place(tmp_path, "Train/run/a.mp4", "validation/run/b.mp4", "test/jump/c.mp4"))
    assert listing.classes == ["jump", "run"]
    assert [(video.class_name, video.split) for video in listing.found] == [
        ("run", "train"),
        ("jump", "test"),
        ("run", "val"),
    ]


def test_a_folder_without_videos_is_an_error(tmp_path):
    place(tmp_path, "notes.txt")
    assert message(read_folder, tmp_path).startswith(f"--videos: {tmp_path}: no video files (looked for .3g2, .3gp, ")
    assert message(read_folder, tmp_path / "none") == f"--videos: {tmp_path}/none is not a folder"


def test_a_link_that_leads_back_up_is_not_followed_for_ever(tmp_path: Path) -> None:
    place(tmp_path, "train/a.mp4", "test/b.mp4")
    (tmp_path / "test" / "up").symlink_to(tmp_path)
    assert [(video.path, video.split) for video in read_folder(tmp_path).found] == [
        ("test/b.mp4", "test"),
        ("train/a.mp4", "train"),
    ]


def test_names_that_are_not_utf8_are_told(tmp_path: Path) -> None:
    place(tmp_path, "a.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.avi")).touch()
    listing = read_folder(tmp_path)
    assert [video.path for video in listing.found] == ["a.mp4"]
    assert listing.problems == {"'caf\\udce9.avi'": "the file's name is not UTF-8; rename it"}

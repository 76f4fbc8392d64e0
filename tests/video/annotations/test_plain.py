"""Lists of `path label` lines, and folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from advise_ray.video.annotations import ListedVideo, Listing, read_folder, read_list
from tests.video.annotations.lists import message, place, write


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return place(tmp_path / "videos", "jump/a.avi", "jump/b.avi", "run fast/c.avi")


def listed(videos: Path, text: str | bytes, name: str = "train.txt") -> Listing:
    return read_list(videos, write(videos.parent / "lists", {name: text}))


# Plain lists


@pytest.mark.parametrize("label", ["7", "dive"])
@pytest.mark.parametrize("separator", [" ", "  ", "\t", ",", ", "])
def test_a_label_stands_behind_a_space_a_tab_or_a_comma(videos, separator, label):
    listing = listed(videos, f"jump/a.avi{separator}{label}\n./jump/b.avi{separator}{label}\r\n")
    assert listing.classes == [label]
    assert listing.found == [ListedVideo(f"jump/{name}.avi", label, "train") for name in "ab"]
    assert (listing.missing, listing.problems) == ([], {})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run fast/c.avi 1", ("run fast/c.avi", "1")),
        ("run fast/c.avi,long jump", ("run fast/c.avi", "long jump")),
        ("slow, then fast.avi 2", ("slow, then fast.avi", "2")),
        ("run fast/c.avi", ("run fast/c.avi", None)),
    ],
)
def test_names_may_hold_what_separates(videos, line, expected):
    place(videos, "slow, then fast.avi")
    (video,) = listed(videos, line).found
    assert (video.path, video.class_name) == expected


def test_a_video_that_was_recoded_is_found_under_its_old_name(tmp_path):
    videos = place(tmp_path / "videos", "a.webm", "b.1.mp4", "b.2.mp4", "C.MP4")
    listing = listed(videos, "a.avi 0\nb.1 1\nb.2 2\nC.mp4 3\n")
    assert [(video.path, video.class_name) for video in listing.found] == [
        ("a.webm", "0"),
        ("b.1.mp4", "1"),
        ("b.2.mp4", "2"),
        ("C.MP4", "3"),
    ]


def test_number_labels_are_ordered_by_value_and_names_by_alphabet(videos):
    assert listed(videos, "jump/a.avi 10\njump/b.avi 9\nrun fast/c.avi 0").classes == ["0", "9", "10"]
    assert listed(videos, "jump/a.avi x\njump/b.avi 9\nrun fast/c.avi 10").classes == ["10", "9", "x"]


def test_the_name_of_a_list_tells_the_split(videos):
    lists = {
        "ucf_train_split_1.txt": "jump/a.avi 0",
        "validation.csv": "jump/b.avi,0",
        "testlist01.txt": "run fast/c.avi 1",
        "README.txt": "jump/a.avi 5",
    }
    folder = write(videos.parent / "lists", lists)
    assert {video.path: video.split for video in read_list(videos, folder).found} == {
        "jump/a.avi": "train",
        "jump/b.avi": "val",
        "run fast/c.avi": "test",
    }
    assert [video.split for video in read_list(videos, folder / "testlist01.txt").found] == ["test"]
    assert [video.split for video in read_list(videos, folder / "README.txt").found] == ["train"]


def test_a_listed_video_without_a_file_is_missing_and_the_rest_goes_on(videos):
    listing = listed(videos, "jump/a.avi 0\njump/gone.avi 0\n")
    assert [video.path for video in listing.missing] == ["jump/gone.avi"]
    assert [video.path for video in listing.found] == ["jump/a.avi"]


@pytest.mark.parametrize("path", ["../secret.avi", "/etc/secret.avi", "jump/../../secret.avi"])
def test_a_path_that_leaves_the_folder_is_refused_even_if_there_is_a_file(videos, path):
    place(videos.parent, "secret.avi")
    listing = listed(videos, f"jump/a.avi 0\n{path} 0\n")
    assert [video.path for video in listing.found] == ["jump/a.avi"]
    assert listing.problems == {f"{videos.parent}/lists/train.txt:2": f"{path!r} leaves the folder of the videos"}


def test_lists_of_which_nothing_can_be_used_are_an_error(videos):
    lists = videos.parent / "lists"
    assert message(listed, videos, "x/a.avi 0\nx/b.avi 0\n") == (
        f"--videos: none of the 2 listed videos, such as x/a.avi is in {videos}"
    )
    assert message(listed, videos, b"\xff\xfe\x00") == f"--annotations: {lists}/train.txt is not a text file"
    assert message(read_list, videos, lists / "none") == f"--annotations: {lists}/none does not exist"
    (lists / "train.txt").rename(lists / "all.txt")
    assert message(read_list, videos, lists) == (
        f"--annotations: no *train*, *val* or *test* .txt or .csv list in {lists}"
    )
    assert message(read_list, lists / "none", lists / "all.txt") == f"--videos: {lists}/none is not a folder"


# Folders


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


def test_a_listed_file_is_found_whatever_its_suffix(tmp_path):
    videos = place(tmp_path / "videos", "a.xyz", "b", "c.mp4", "c.txt")
    (tmp_path / "train.txt").write_text("a.xyz run\nb run\nc.txt run\n")
    listing = read_list(videos, tmp_path / "train.txt")
    assert [video.path for video in listing.found] == ["a.xyz", "b", "c.txt"]
    assert set(listing.stored) == {"a.xyz", "b", "c.mp4", "c.txt"}
    assert listing.missing == []


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


def test_a_video_listed_twice_is_told_and_kept_once(tmp_path: Path) -> None:
    place(tmp_path / "videos", "a.mp4", "b.mp4")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("a.mp4 0\nb.mp4 1\n")
    (lists / "test.txt").write_text("a.mp4 0\n")
    listing = read_list(tmp_path / "videos", lists)
    assert sorted(video.path for video in listing.found) == ["a.mp4", "b.mp4"]
    (problem,) = listing.problems.values()
    assert "'a.mp4' was listed before, at " in problem


def test_a_link_that_leads_back_up_is_not_followed_for_ever(tmp_path: Path) -> None:
    place(tmp_path, "train/a.mp4", "test/b.mp4")
    (tmp_path / "test" / "up").symlink_to(tmp_path)
    assert [(video.path, video.split) for video in read_folder(tmp_path).found] == [
        ("test/b.mp4", "test"),
        ("train/a.mp4", "train"),
    ]


def test_a_class_keeps_its_number_whatever_is_missing(videos: Path) -> None:
    assert listed(videos, "jump/a.avi 0\njump/gone.avi 1\njump/b.avi 2\n").classes == ["0", "1", "2"]


def test_names_that_are_not_utf8_are_told(tmp_path: Path) -> None:
    place(tmp_path, "a.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.avi")).touch()
    listing = read_folder(tmp_path)
    assert [video.path for video in listing.found] == ["a.mp4"]
    assert listing.problems == {"'caf\\udce9.avi'": "the file's name is not UTF-8; rename it"}

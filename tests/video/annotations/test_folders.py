"""Folders of videos, as people arrange them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from advise_ray.storage import remote
from advise_ray.storage.transports import StoredFile
from advise_ray.video.annotations import ListedVideo, read_folder, root_and_file
from tests.video.annotations.lists import message, place


def test_a_flat_folder_has_no_labels(tmp_path):
    videos = place(tmp_path, "b.MKV", "a.mp4", "deep/er/c.webm", "notes.txt", "a.mp4.partial", "._a.mp4")
    listing = read_folder(videos)
    assert listing.classes == []
    assert listing.found == [ListedVideo("a.mp4"), ListedVideo("b.MKV"), ListedVideo("deep/er/c.webm")]


def test_sounds_are_named_and_other_files_counted(tmp_path):
    listing = read_folder(place(tmp_path, "run/a.mp4", "run/a.mp3", "jump/b.mp4", "notes.txt", "x.TXT", "LICENSE"))
    assert [video.path for video in listing.found] == ["jump/b.mp4", "run/a.mp4"]
    assert listing.skipped == {"run/a.mp3": "no video: sounds (.mp3)"}
    assert listing.other_files == {"sounds (.mp3)": 1, "texts (.txt)": 2, "without a suffix": 1}


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
    assert message(read_folder, tmp_path) == f"--videos: {tmp_path}: no video files, but texts (.txt): 1"
    assert message(read_folder, tmp_path / "none") == f"--videos: {tmp_path}/none does not exist"


def test_a_link_that_leads_back_up_is_not_followed_for_ever(tmp_path: Path) -> None:
    place(tmp_path, "train/a.mp4", "test/b.mp4")
    (tmp_path / "test" / "up").symlink_to(tmp_path)
    assert [(video.path, video.split) for video in read_folder(tmp_path).found] == [
        ("test/b.mp4", "test"),
        ("train/a.mp4", "train"),
    ]


def test_a_linked_folder_keeps_its_own_name(tmp_path: Path) -> None:
    place(tmp_path, "zoo/run/a.mp4", "zoo/jump/b.mp4")
    (tmp_path / "zoo" / "also").symlink_to(tmp_path / "zoo" / "run")
    listing = read_folder(tmp_path / "zoo")
    assert listing.classes == ["jump", "run"]
    assert listing.skipped == {"also": "a link to a folder that is read under another name"}


def test_names_that_are_not_utf8_are_told(tmp_path: Path) -> None:
    place(tmp_path, "a.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.avi")).touch()
    listing = read_folder(tmp_path)
    assert [video.path for video in listing.found] == ["a.mp4"]
    assert listing.skipped == {"'caf\\udce9.avi'": "the file's name is not UTF-8; rename it"}


# Habits

CLASSES = [f"{name}/{number}.mp4" for name in ("jump", "run") for number in range(6)]


def test_a_stray_file_beside_the_classes_is_named_and_takes_no_labels_away(tmp_path: Path) -> None:
    listing = read_folder(place(tmp_path, "intro.mp4", *CLASSES))
    assert listing.classes == ["jump", "run"]
    assert [video.path for video in listing.found if video.class_name is None] == ["intro.mp4"]
    assert listing.notes == ["1 video is not in class folders, and has no label: intro.mp4"]


def test_strays_beside_splits_and_a_test_set_without_classes(tmp_path: Path) -> None:
    videos = place(tmp_path, "demo.mp4", "train/odd.mp4", *(f"train/{path}" for path in CLASSES), "test/a.mp4")
    listing = read_folder(videos)
    assert listing.classes == ["jump", "run"]
    by_path = {video.path: video for video in listing.found}
    assert by_path["train/run/1.mp4"] == ListedVideo("train/run/1.mp4", "run", "train")
    assert by_path["test/a.mp4"] == ListedVideo("test/a.mp4", None, "test")
    assert by_path["demo.mp4"] == ListedVideo("demo.mp4")
    assert listing.notes == [
        "1 video is outside the split folders, and belongs to no split: demo.mp4",
        "1 video is not in class folders, and has no label: train/odd.mp4",
        "the videos in test have no labels: they are not in class folders",
    ]


@pytest.mark.parametrize(
    ("paths", "note"),
    [
        (
            [f"videos/{path}" for path in CLASSES],
            "all videos are in videos/; to use its folders as classes: --videos {root}",
        ),
        (
            [f"{name}/p{i}/1.mp4" for name in "ab" for i in (1, 2)],
            "videos are in 2 levels of folders, such as a/p1/1.mp4",
        ),
        (["a/p1/1.mp4", "b/p1/2.mp4", *CLASSES[:2]], "2 of 4 videos are not in CLASS/VIDEO, such as a/p1/1.mp4"),
        (
            [f"{top}/{path}" for top in ("train", "extra") for path in CLASSES],
            "train is a split (train, val, test), but extra is not; rename it",
        ),
        (
            ["x.mp4", "y.mp4", *CLASSES[:3]],
            "2 of 5 videos are not in CLASS/VIDEO, such as x.mp4; for labels, move them",
        ),
    ],
)
def test_what_keeps_folders_from_being_classes_is_said(tmp_path: Path, paths: list[str], note: str) -> None:
    listing = read_folder(place(tmp_path, *paths))
    assert listing.classes == []
    (told,) = listing.notes
    assert note.format(root=tmp_path) in told


def test_hidden_and_system_folders_are_no_classes(tmp_path: Path) -> None:
    hidden = (".thumbs/0.mp4", "@eaDir/1.mp4", "__MACOSX/run/._0.mp4", "run/._1.mp4", "#recycle/2.mp4")
    listing = read_folder(place(tmp_path, *hidden, *CLASSES, ".DS_Store"))
    assert listing.classes == ["jump", "run"]
    assert listing.notes == ["skipped 5 videos that are hidden or in a system folder: #recycle, .thumbs, @eaDir, …"]
    assert listing.other_files == {}


def test_a_folder_that_may_not_be_read_and_a_pipe_are_skipped_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(tmp_path, *CLASSES, "secret/a.mp4")
    os.mkfifo(tmp_path / "run" / "live.mp4")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = read_folder(tmp_path)
    assert listing.classes == ["jump", "run"]
    assert listing.skipped == {"secret": "Permission denied", "run/live.mp4": "a pipe, socket or device, not a file"}
    assert len(listing.notes) == 1
    assert listing.notes[0].endswith(", and 1 other")
    assert message(read_folder, tmp_path / "secret") == f"--videos: {tmp_path}/secret: Permission denied"


def test_a_single_file_is_a_folder_of_one(tmp_path: Path) -> None:
    listing = read_folder(place(tmp_path, "run/a.mp4", "run/b.mp4", "n.txt", "m.parquet") / "run" / "a.mp4")
    assert listing.found == [ListedVideo("a.mp4")]
    assert list(listing.stored) == ["a.mp4"]
    assert root_and_file(str(tmp_path / "run/a.mp4")) == (str(tmp_path / "run"), "a.mp4")
    assert root_and_file("s3://bucket/x/a.mp4?region=y") == ("s3://bucket/x?region=y", "a.mp4")
    assert root_and_file("s3://bucket/videos") == ("s3://bucket/videos", None)
    assert "n.txt is not a video but one of texts (.txt); " in message(read_folder, tmp_path / "n.txt")
    assert "use data.manifest for a manifest" in message(read_folder, tmp_path / "m.parquet")


def test_what_there_is_in_place_of_videos_is_said(tmp_path: Path) -> None:
    assert "pictures (.jpg): 1; to convert a folder of pictures to a video: `ffmpeg" in message(
        read_folder, place(tmp_path / "a", "v/1.jpg")
    )
    assert "unpack the archives first" in message(read_folder, place(tmp_path / "b", "00000.tar"))
    (tmp_path / "c").mkdir()
    assert message(read_folder, tmp_path / "c").endswith("the folder is empty, or has only hidden files")


@pytest.mark.parametrize("names", [("trainset", "testset"), ("train_256", "test_256"), ("videos_Train", "videos_Test")])
def test_split_folders_may_have_longer_names(tmp_path: Path, names: tuple[str, str]) -> None:
    flat = read_folder(place(tmp_path / "flat", *(f"{name}/1.mp4" for name in names)))
    assert {(video.class_name, video.split) for video in flat.found} == {(None, "train"), (None, "test")}
    deep = read_folder(place(tmp_path / "deep", *(f"{name}/{path}" for name in names for path in CLASSES)))
    assert {(video.class_name, video.split) for video in deep.found} == {
        (name, split) for name in ("jump", "run") for split in ("train", "test")
    }


def test_classes_that_are_probably_one_and_copies_in_other_formats_are_told(tmp_path: Path) -> None:
    notes = read_folder(place(tmp_path, "train/Run/a.mp4", "val/run/b.mp4", "val/run/b.webm")).notes
    assert notes == [
        "1 video(s) are there with several suffixes, such as val/run/b: each file counts as a video",
        "classes whose names differ only in capitals, spaces or accents are separate: 'Run' and 'run'",
    ]
    (note,) = read_folder(place(tmp_path / "b", "caf\u00e9/1.mp4", "cafe\u0301/2.mp4")).notes
    assert note.startswith("classes whose names differ only")


def test_the_time_to_list_a_folder_grows_with_its_files_not_with_their_square(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [StoredFile(f"{number % 100}/{number}.mp4", 1, 1) for number in range(30_000)]
    monkeypatch.setattr(remote, "list_files", lambda *_: every)
    start = time.process_time()
    assert len(read_folder("s3://bucket/videos").found) == len(every)
    assert time.process_time() - start < 20

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from advise_ray.errors import UsageError
from advise_ray.video.annotations import (
    ListedVideo,
    Listing,
    read_diving48,
    read_folder,
    read_hmdb51,
    read_kinetics,
    read_list,
    read_ssv2,
    read_ucf101,
)
from advise_ray.video.layouts import LAYOUTS
from advise_ray.video.synth import synthesize

Lists = dict[str, str | bytes]


def place(folder: Path, *paths: str) -> Path:
    """Empty files: readers of lists do not open videos."""
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return place(tmp_path / "videos", "jump/a.avi", "jump/b.avi", "run fast/c.avi")


def write(folder: Path, lists: Lists) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in lists.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def listed(videos: Path, text: str | bytes, name: str = "train.txt") -> Listing:
    return read_list(videos, write(videos.parent / "lists", {name: text}))


def message(read, *arguments: object) -> str:
    with pytest.raises(UsageError) as caught:
        read(*arguments)
    return str(caught.value)


# UCF101

UCF_LISTS: Lists = {
    "classInd.txt": "\ufeff1 jump\r\n2 run fast\r\n",
    "trainlist01.txt": "jump/a.avi 1\r\n",
    "testlist01.txt": "jump/b.avi\r\n",
}


def test_ucf101_lists_with_the_line_ends_and_the_byte_order_mark_of_windows(videos):
    listing = read_ucf101(videos, write(videos.parent / "lists", UCF_LISTS), 1)
    assert listing.classes == ["jump", "run fast"]
    assert listing.found == [ListedVideo("jump/a.avi", "jump", "train"), ListedVideo("jump/b.avi", "jump", "test")]
    assert (listing.missing, listing.problems) == ([], {})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("jump/b.avi 2", "'jump/b.avi 2': label and folder name different classes"),
        ("swim/b.avi 1", "'swim/b.avi 1': class 'swim' is not in classInd.txt"),
        ("jump/../../b.avi 1", "'jump/../../b.avi' leaves the folder of the videos"),
    ],
)
def test_a_ucf101_line_that_contradicts_the_rest_is_named_with_its_number(videos, line, problem):
    lists = write(videos.parent / "lists", UCF_LISTS | {"trainlist01.txt": f"jump/a.avi 1\r\n\r\n{line}\r\n"})
    listing = read_ucf101(videos, lists, 1)
    assert listing.problems == {f"{lists}/trainlist01.txt:3": problem}
    assert [video.path for video in listing.found] == ["jump/a.avi", "jump/b.avi"]


def test_a_ucf101_list_that_is_not_there(videos):
    lists = write(videos.parent / "lists", UCF_LISTS)
    assert message(read_ucf101, videos, lists, 2) == (
        f"--annotations: cannot read the train list of split 2, {lists}/trainlist02.txt: No such file or directory"
    )


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Path:
    return shared_data / "annotations" / "ucf101"


@pytest.fixture(scope="module")
def ucf101_videos(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 13,320 names, empty, as .mp4, which many have recoded them to."""
    root = tmp_path_factory.mktemp("ucf101")
    for name in ("trainlist01.txt", "testlist01.txt"):
        for line in (published / name).read_text().split("\n"):
            if line.strip():
                file = root / Path(line.split()[0]).with_suffix(".mp4")
                file.parent.mkdir(exist_ok=True)
                file.touch()
    return root


@pytest.mark.parametrize(("split", "num_train", "num_test"), [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)])
def test_the_published_ucf101_lists_are_read_whole(ucf101_videos, published, split, num_train, num_test):
    listing = read_ucf101(ucf101_videos, published, split)
    assert (listing.missing, listing.problems) == ([], {})
    assert Counter(video.split for video in listing.found) == {"train": num_train, "test": num_test}
    assert len({video.path for video in listing.found}) == 13320
    assert len(listing.classes) == 101
    assert (listing.classes[0], listing.classes[100]) == ("ApplyEyeMakeup", "YoYo")
    assert all(video.class_name == video.path.split("/")[0] for video in listing.found)


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
    assert message(read_folder, tmp_path).startswith(f"--videos: {tmp_path}: no video files (looked for .3gp, .avi, ")
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


# The other benchmarks


def test_hmdb51_lists_say_what_is_trained_and_tested_on(tmp_path: Path) -> None:
    videos = place(tmp_path / "videos", "brush_hair/a_b.avi", "brush_hair/c#1.mp4", "wave/d.avi", "e.avi")
    lists = write(
        tmp_path / "lists",
        {
            "brush_hair_test_split2.txt": "a_b.avi 1 \r\nc#1.avi 2 \r\ngone.avi 2 \nunused.avi 0 \nodd.avi 7 \n",
            "wave_test_split2.txt": "d.avi 1\ne.avi 2\n",
            "wave_test_split1.txt": "d.avi 2\n",
        },
    )
    listing = read_hmdb51(videos, lists, 2)
    assert listing.classes == ["brush_hair", "wave"]
    assert listing.found == [
        ListedVideo("brush_hair/a_b.avi", "brush_hair", "train"),
        ListedVideo("brush_hair/c#1.mp4", "brush_hair", "test"),
        ListedVideo("wave/d.avi", "wave", "train"),
        ListedVideo("e.avi", "wave", "test"),  # wherever it lies
    ]
    assert listing.missing == [ListedVideo("brush_hair/gone.avi", "brush_hair", "test")]
    (where,) = listing.problems
    assert where == f"{lists}/brush_hair_test_split2.txt:5"
    assert message(read_hmdb51, videos, lists, 3) == f"--annotations: no <class>_test_split3.txt in {lists}"


@pytest.mark.parametrize("split", [1, 2, 3])
def test_the_published_hmdb51_lists_are_read_whole(shared_data: Path, tmp_path: Path, split: int) -> None:
    """They name 70 clips of each class to train on and 30 to test on; some of those were not to be had."""
    lists = shared_data / "annotations" / "hmdb51" / "testTrainMulti_7030_splits"
    rows = [
        (path.name.rpartition("_test_split")[0], *line.split())
        for path in lists.glob(f"*_test_split{split}.txt")
        for line in path.read_text().splitlines()
    ]
    place(tmp_path, *(f"{class_name}/{name}" for class_name, name, _ in rows))
    listing = read_hmdb51(tmp_path, lists, split)
    assert (len(listing.classes), listing.missing, listing.problems) == (51, [], {})
    uses = Counter(use for *_, use in rows)
    assert Counter(video.split for video in listing.found) == {"train": uses["1"], "test": uses["2"]}
    assert 3200 < uses["1"] <= 51 * 70
    assert 1400 < uses["2"] <= 51 * 30


DIVES = [
    {"vid_name": "-mmq0PT-u8k_00155", "label": 0, "start_frame": 0, "end_frame": 48},
    {"vid_name": "b", "label": 1, "start_frame": 12, "end_frame": 40},
    {"vid_name": "c", "label": 2, "start_frame": 0, "end_frame": 9},
    {"vid_name": "d", "label": 1, "start_frame": 9, "end_frame": 9},
    {"vid_name": "e"},
    "f",
]


def test_diving48_keeps_where_a_dive_begins_and_ends(tmp_path: Path) -> None:
    videos = place(tmp_path / "videos", "rgb/-mmq0PT-u8k_00155.mp4", "rgb/b.webm")
    vocabulary = [["Back", "15som", "05Twis", "FREE"], ["Forward", "15som", "NoTwis", "PIKE"]]
    lists: Lists = {
        "Diving48_vocab.json": json.dumps(vocabulary),
        "Diving48_V2_train.json": json.dumps(DIVES),
        "Diving48_V2_test.json": "[]",
    }
    folder = write(tmp_path / "lists", lists)
    listing = read_diving48(videos, folder)
    assert listing.classes == ["Back+15som+05Twis+FREE", "Forward+15som+NoTwis+PIKE"]
    assert listing.found == [
        ListedVideo("rgb/-mmq0PT-u8k_00155.mp4", "Back+15som+05Twis+FREE", "train", 0, 48),
        ListedVideo("rgb/b.webm", "Forward+15som+NoTwis+PIKE", "train", 12, 40),
    ]
    train = folder / "Diving48_V2_train.json"
    assert list(listing.problems) == [f"{train}:entry {number}" for number in (3, 4, 5, 6)]
    assert "label 2 is not in Diving48_vocab.json" in listing.problems[f"{train}:entry 3"]
    train.write_text("{not json")
    assert message(read_diving48, videos, folder).startswith(f"--annotations: {train}:1 is not JSON: ")
    train.write_text("{}")
    assert message(read_diving48, videos, folder) == (
        f"--annotations: {train} holds no JSON list for the train list (V2)"
    )


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_ssv2_templates_name_classes_without_their_brackets(tmp_path: Path, prefix: str) -> None:
    videos = place(tmp_path / "videos", "78687.webm", "1.webm", "2.mp4", "1420.webm", "1421.webm")
    labels = {"Holding something next to something": "1", "Throwing something": "0"}
    holding = {"id": "78687", "label": "holding a next to b", "template": "Holding [something] next to [something]"}
    unknown = {"id": "1", "template": "Eating [something]"}
    lists = write(
        tmp_path / "lists",
        {
            f"{prefix}labels.json": json.dumps(labels),
            f"{prefix}train.json": json.dumps([holding, unknown, {"label": "no id"}]),
            f"{prefix}validation.json": json.dumps([{"id": "2", "template": "Throwing [something]"}]),
            f"{prefix}test.json": json.dumps([{"id": "1420"}, {"id": "1421"}]),
            "test-answers.csv": "1420;Throwing something\r\n",
        },
    )
    listing = read_ssv2(videos, lists)
    assert listing.classes == ["Throwing something", "Holding something next to something"]
    assert listing.found == [
        ListedVideo("78687.webm", "Holding something next to something", "train"),
        ListedVideo("2.mp4", "Throwing something", "val"),
        ListedVideo("1420.webm", "Throwing something", "test"),
        ListedVideo("1421.webm", None, "test"),
    ]
    train = lists / f"{prefix}train.json"
    assert listing.problems[f"{train}:entry 2"] == "1: 'Eating something' is not in the labels"
    assert listing.problems[f"{train}:entry 3"].endswith("has no id")


def test_kinetics_files_are_found_in_any_folder_by_their_seconds(tmp_path: Path) -> None:
    names = [
        "train/air drumming/--abc_x_-12_000041_000051.mp4",
        "0wR5jVB-WPk_000417_000427.mkv",
        "a/t_000000_000010.mp4",
    ]
    videos = place(tmp_path / "videos", *names, "x/twice_000001_000011.mp4", "y/twice_000001_000011.mp4")
    head = "label,youtube_id,time_start,time_end,split\r\n"
    rows = "air drumming,--abc_x_-12,41,51,train\r\nabseiling,gone,1,11,train\r\nabseiling,twice,1,11,train\r\n"
    lists = write(
        tmp_path / "lists",
        {
            "train.csv": f"{head}{rows}broken\r\n",
            "validate.csv": f'{head}"abseiling",0wR5jVB-WPk,417,427,validate\r\n',
            "test.csv": "youtube_id,time_start,time_end,split\nt,0,10,test\n",
        },
    )
    listing = read_kinetics(videos, lists)
    assert listing.classes == ["abseiling", "air drumming"]
    assert listing.found == [
        ListedVideo(names[0], "air drumming", "train"),
        ListedVideo(names[1], "abseiling", "val"),
        ListedVideo(names[2], None, "test"),
    ]
    assert [video.path for video in listing.missing] == ["gone_000001_000011.mp4"]
    assert "is in several folders: x/twice_000001_000011.mp4, y/twice" in listing.problems[f"{lists}/train.csv:4"]
    assert listing.problems[f"{lists}/train.csv:5"] == "not a youtube_id with time_start and time_end"
    assert message(read_kinetics, videos, videos) == f"--annotations: no train.csv, val.csv or test.csv in {videos}"


READERS = {
    "ucf101": lambda videos, lists: read_ucf101(videos, lists, 1),
    "hmdb51": lambda videos, lists: read_hmdb51(videos, lists, 1),
    "diving48": read_diving48,
    "ssv2": read_ssv2,
    "kinetics": read_kinetics,
    "list": read_list,
    "folder": lambda videos, _: read_folder(videos),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_synthesized_set_is_read_in_its_format(tmp_path: Path, layout: str) -> None:
    synthesize(tmp_path, 24, seed=0, layout=layout)
    listing = READERS[layout](tmp_path / LAYOUTS[layout].videos, tmp_path / LAYOUTS[layout].lists)
    assert (len(listing.found), len(listing.classes), listing.missing, listing.problems) == (24, 8, [], {})
    counts = Counter((video.class_name, video.split) for video in listing.found)
    held_out = {"ssv2": "val", "kinetics": "val"}.get(layout, "test")
    splits = {None: 3} if layout == "folder" else {"train": 2, held_out: 1}
    assert counts == {(name, split): number for name in listing.classes for split, number in splits.items()}


def test_a_class_keeps_its_number_whatever_is_missing(videos: Path) -> None:
    assert listed(videos, "jump/a.avi 0\njump/gone.avi 1\njump/b.avi 2\n").classes == ["0", "1", "2"]


def test_names_that_are_not_utf8_are_told(tmp_path: Path) -> None:
    place(tmp_path, "a.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.avi")).touch()
    listing = read_folder(tmp_path)
    assert [video.path for video in listing.found] == ["a.mp4"]
    assert listing.problems == {"'caf\\udce9.avi'": "the file's name is not UTF-8; rename it"}

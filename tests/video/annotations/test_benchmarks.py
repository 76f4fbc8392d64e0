"""The benchmarks' lists: published ones, small ones of our own, and those of `data synth`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from advise_ray.video.annotations import (
    ListedVideo,
    read,
    read_diving48,
    read_hmdb51,
    read_kinetics,
    read_ssv2,
    read_ucf101,
)
from advise_ray.video.layouts import LAYOUTS
from advise_ray.video.synth import synthesize
from tests.video.annotations.lists import Lists, message, place, write


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return place(tmp_path / "videos", "jump/a.avi", "jump/b.avi", "run fast/c.avi")


UCF_LISTS: Lists = {
    "classInd.txt": "\ufeff1 jump\r\n2 run fast\r\n",
    "trainlist01.txt": "jump/a.avi 1\r\n",
    "testlist01.txt": "jump/b.avi\r\n",
}


def test_ucf101_lists_with_the_line_ends_and_the_byte_order_mark_of_windows(videos):
    listing = read_ucf101(videos, write(videos.parent / "lists", UCF_LISTS), 1)
    assert listing.classes == ["jump", "run fast"]
    assert listing.found == [
        ListedVideo("jump/a.avi", "jump", "train", official_splits=("train",)),
        ListedVideo("jump/b.avi", "jump", "test", official_splits=("test",)),
    ]
    assert (listing.missing, listing.problems) == ([], {})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("jump/b.avi 2", "'jump/b.avi 2': the label and the folder are different classes"),
        ("swim/b.avi 1", "'swim/b.avi 1': class 'swim' is not in classInd.txt"),
        ("jump/../../b.avi 1", "'jump/../../b.avi' is outside the folder of the videos"),
    ],
)
def test_a_ucf101_line_that_contradicts_the_rest_is_named_with_its_number(videos, line, problem):
    lists = write(videos.parent / "lists", UCF_LISTS | {"trainlist01.txt": f"jump/a.avi 1\r\n\r\n{line}\r\n"})
    listing = read_ucf101(videos, lists, 1)
    assert listing.problems == {f"{lists}/trainlist01.txt:3": problem}
    assert [video.path for video in listing.found] == ["jump/a.avi", "jump/b.avi"]


def test_a_class_keeps_its_number_when_another_line_is_broken(videos):
    lists = write(
        videos.parent / "lists", UCF_LISTS | {"classInd.txt": "3 swim\n1 jump\n2run fast\n", "testlist01.txt": ""}
    )
    listing = read_ucf101(videos, lists, 1)
    assert listing.classes == ["jump", "2", "swim"]
    assert listing.problems == {f"{lists}/classInd.txt:3": "'2run fast': expected a unique number and a class name"}


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
    assert all(len(video.official_splits) == 3 for video in listing.found)
    assert all(video.official_splits[split - 1] == video.split for video in listing.found)


def test_hmdb51_lists_say_what_is_trained_and_tested_on(tmp_path: Path) -> None:
    videos = place(tmp_path / "videos", "brush_hair/a_b.avi", "brush_hair/c#1.mp4", "wave/d.avi", "wave/f.avi", "e.avi")
    lists = write(
        tmp_path / "lists",
        {
            "brush_hair_test_split2.txt": "a_b.avi 1 \r\nc#1.avi 2 \r\ngone.avi 2 \nunused.avi 0 \nodd.avi 7 \n",
            "wave_test_split2.txt": "d.avi 1\ne.avi 2\nf.avi 0\n",
            "wave_test_split1.txt": "d.avi 2\nf.avi 1\n",
        },
    )
    listing = read_hmdb51(videos, lists, 2)
    assert listing.classes == ["brush_hair", "wave"]
    assert listing.found == [
        ListedVideo("brush_hair/a_b.avi", "brush_hair", "train", official_splits=(None, "train")),
        ListedVideo("brush_hair/c#1.mp4", "brush_hair", "test", official_splits=(None, "test")),
        ListedVideo("wave/d.avi", "wave", "train", official_splits=("test", "train")),
        ListedVideo("e.avi", "wave", "test", official_splits=(None, "test")),  # wherever it lies
        ListedVideo("wave/f.avi", "wave", None, official_splits=("train", None)),  # only another split uses it
    ]
    assert listing.missing == [ListedVideo("brush_hair/gone.avi", "brush_hair", "test", official_splits=(None, "test"))]
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
    found = Counter(video.split for video in listing.found)
    assert (found["train"], found["test"]) == (uses["1"], uses["2"])
    assert all(video.official_splits[split - 1] == video.split for video in listing.found)
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
        f"--annotations: {train} does not contain a JSON list for the train list (V2)"
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
            "test-answers.csv": "1420 ; Throwing something \r\n1421, Throwing something\r\n",
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
    assert listing.problems[f"{train}:entry 2"] == "1: 'Eating something' is not in labels.json"
    assert listing.problems[f"{train}:entry 3"].endswith("no id")
    answers = f"{lists}/test-answers.csv:2"
    assert listing.problems[answers] == "'1421, Throwing something': expected ID;CLASS"
    unanswered = listing.problems[f"{lists}/{prefix}test.json:entry 2"]
    assert unanswered == "1421: not in test-answers.csv; kept without a label"


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
    assert listing.problems[f"{lists}/train.csv:5"] == "expected youtube_id, time_start and time_end"
    assert message(read_kinetics, videos, videos) == f"--annotations: no train.csv, val.csv or test.csv in {videos}"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_synthesized_set_is_read_in_its_format(empty_videos: None, tmp_path: Path, layout: str) -> None:
    synthesize(tmp_path, 24, seed=0, layout=layout)
    lists = None if layout == "folder" else tmp_path / LAYOUTS[layout].lists
    listing = read(layout, str(tmp_path / LAYOUTS[layout].videos), lists, None)
    assert (len(listing.found), len(listing.classes), listing.missing, listing.problems) == (24, 8, [], {})
    counts = Counter((video.class_name, video.split) for video in listing.found)
    held_out = {"ssv2": "val", "kinetics": "val"}.get(layout, "test")
    splits = {None: 3} if layout == "folder" else {"train": 2, held_out: 1}
    assert counts == {(name, split): number for name in listing.classes for split, number in splits.items()}


def test_lists_that_were_edited_or_renamed_are_read(tmp_path: Path) -> None:
    """Headers in capitals, spaces around fields, longer names, tabs, and labels in a test list."""
    videos = place(tmp_path / "videos", "run/abcdefghijk_000001_000011.mp4", "run/v_1.avi")
    lists = write(
        tmp_path / "lists",
        {"kinetics-400_train.csv": "Label, YouTube_ID ,time_start,time_end\nrun , abcdefghijk,1.0,11.0\n"},
    )
    assert read_kinetics(videos, lists).found == [ListedVideo("run/abcdefghijk_000001_000011.mp4", "run", "train")]
    write(lists, {"kinetics-600_train.csv": ""})
    assert "several files for train.csv: kinetics-400_train.csv, kinetics-600_train.csv" in message(
        read_kinetics, videos, lists
    )
    headless = write(tmp_path / "headless", {"train.csv": "run,abcdefghijk,1,11,train\n"})
    assert message(read_kinetics, videos, headless).endswith("it lacks time_end, time_start, youtube_id")
    ucf = {"classInd.txt": "1\trun\n", "trainlist01.txt": "", "testlist01.txt": "run/v_1.avi 1\n"}
    (video,) = read_ucf101(videos, write(tmp_path / "ucf", ucf), 1).found
    assert (video.path, video.split, video.official_splits) == ("run/v_1.avi", "test", ("test",))
    hmdb = write(tmp_path / "hmdb", {"run_test_split1.txt": "v_1.avi\t2\n"})
    assert [video.split for video in read_hmdb51(videos, hmdb, 1).found] == ["test"]
    problem = message(read, "ucf101", str(videos), tmp_path / "ucf" / "classInd.txt", None)
    assert problem.endswith("classInd.txt is a file; --format ucf101 needs the folder of the lists")

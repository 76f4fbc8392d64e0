"""Lines of lists, as spreadsheets, scripts and people write them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from advise_ray.video.annotations import Listing, read_list
from tests.video.annotations.lists import message, place, write


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return place(tmp_path / "videos", "jump/a.avi", "jump/b.avi", "run fast/c.avi")


def listed(videos: Path, text: str | bytes, name: str = "train.csv") -> Listing:
    return read_list(videos, write(videos.parent / "lists", {name: text}))


def pairs(listing: Listing) -> list[tuple[str, str | None]]:
    return [(video.path, video.class_name) for video in listing.found]


@pytest.mark.parametrize(
    "text",
    [
        "File Name,Class Label\njump/a.avi,10\nrun fast/c.avi,2\n",
        "Video-File\tAction Label\njump/a.avi\t10\nrun fast/c.avi\t2\n",
        "jump/a.avi,10,\nrun fast/c.avi,2,\n",
        "jump/a.avi;10;;\nrun fast/c.avi;2;;\n",
        "path,label\njump/a.avi,10\n,\n , \nrun fast/c.avi,2\n,\n",
        "sep=;\npath;label\njump/a.avi;10\nrun fast/c.avi;2\n",
        "'jump/a.avi','10'\n'run fast/c.avi','2'\n",
        "jump/a.avi 1e1\nrun fast/c.avi +2.0\n",
        "jump/a.avi 010\nrun fast/c.avi 002\n",
    ],
)
def test_what_spreadsheets_and_scripts_add_changes_no_label(videos: Path, text: str) -> None:
    listing = listed(videos, text)
    assert pairs(listing) == [("jump/a.avi", "10"), ("run fast/c.avi", "2")]
    assert listing.classes == ["2", "10"]
    assert (listing.missing, listing.problems, listing.notes) == ([], {}, [])


def test_a_path_and_a_label_may_both_have_spaces_or_commas(videos: Path) -> None:
    listing = listed(videos, "run fast/c.avi run fast\njump/gone.avi long jump\njump/a.avi run\n")
    assert pairs(listing) == [("run fast/c.avi", "run fast"), ("jump/a.avi", "run")]
    assert listing.classes == ["long jump", "run", "run fast"]
    place(videos, "x, y.mp4")
    assert pairs(listed(videos, "x, y.mp4,stand, then sit\njump/a.avi,run\njump/b.avi,run\n"))[0] == (
        "x, y.mp4",
        "stand, then sit",
    )


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_video_without_a_label_is_kept(videos: Path, separator: str) -> None:
    lines = ("path,label", "jump/a.avi,walk", "jump/b.avi,", "run fast/c.avi,run")
    listing = listed(videos, "\n".join(lines).replace(",", separator) + "\n")
    assert pairs(listing) == [("jump/a.avi", "walk"), ("jump/b.avi", None), ("run fast/c.avi", "run")]
    assert listing.problems == {}


def test_a_word_for_a_missing_number_is_no_label(videos: Path) -> None:
    listing = listed(videos, "jump/a.avi,10\njump/b.avi,nan\nrun fast/c.avi,2\n")
    assert listing.classes == ["2", "10"]
    assert listing.found[1].class_name is None
    assert listing.notes == ["videos with the label nan are used without a label"]


def test_a_duplicate_with_another_label_and_a_line_without_path_or_split_are_told(videos: Path) -> None:
    text = "path,label,split\njump/a.avi,1,train\njump/a.avi,2,train\n,1,train\njump/b.avi,1,\n"
    listing = listed(videos, text, "all.csv")
    assert pairs(listing) == [("jump/a.avi", "1")]
    assert [problem.partition(": ")[2] or problem for problem in listing.problems.values()] == [
        f"'jump/a.avi' is a duplicate of {videos.parent}/lists/all.csv:2 with another label (2, not 1)",
        "no path",
        "unknown split ''; use train, val or test",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (gzip.compress(b"jump/a.avi 1\n"), "is compressed; unpack it with gunzip"),
        (b"PK\x03\x04\x00", "is a zip archive or a workbook; save it as CSV"),
        ("jump/a.avi 1\n".encode("utf-16-le"), "is not a text file in UTF-8; save it as one"),
        ("jump/a.avi " + "x" * 200_000, "is not a line of a list: field larger than field limit (131072)"),
        ("jump/a.avi,1,train\njump/b.avi,2,test\n", "add a header, such as path,label,split"),
    ],
)
def test_a_file_that_is_no_list_is_refused_with_the_way_out(videos: Path, content: str | bytes, problem: str) -> None:
    assert message(listed, videos, content).endswith(problem)


def test_a_list_whose_name_has_no_split_is_named(videos: Path) -> None:
    lists = write(videos.parent / "lists", {"train.txt": "jump/a.avi 0", "labels.txt": "jump", "test.txt": ""})
    assert read_list(videos, lists).notes == ["not used, because their names have no train, val or test: labels.txt"]


def test_the_path_of_a_file_url_is_decoded(videos: Path) -> None:
    assert pairs(listed(videos, f"file://{videos}/run%20fast/c.avi 1\n")) == [("run fast/c.avi", "1")]

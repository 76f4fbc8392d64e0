"""Lists with lines of path and label, in the usual formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from advise_ray.video.annotations import ListedVideo, Listing, read_list
from tests.video.annotations.lists import message, place, write


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return place(tmp_path / "videos", "jump/a.avi", "jump/b.avi", "run fast/c.avi")


def listed(videos: Path, text: str | bytes, name: str = "train.txt") -> Listing:
    return read_list(videos, write(videos.parent / "lists", {name: text}))


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
    assert listing.problems == {f"{videos.parent}/lists/train.txt:2": f"{path!r} is outside the folder of the videos"}


def test_lists_of_which_nothing_can_be_used_are_an_error(videos):
    lists = videos.parent / "lists"
    assert message(listed, videos, "x/a.avi 0\nx/b.avi 0\n") == (
        f"--videos: none of the 2 listed videos is in {videos} (missing: x/a.avi, …); a file with that name is "
        "jump/a.avi: change the paths in the lists"
    )
    assert (
        message(listed, videos, b"\xff\xfe\x00")
        == f"--annotations: {lists}/train.txt is not a text file in UTF-8; save it as one"
    )
    assert message(read_list, videos, lists / "none") == f"--annotations: {lists}/none does not exist"
    (lists / "train.txt").rename(lists / "all.txt")
    (lists / "more.txt").touch()
    assert message(read_list, videos, lists) == (
        f"--annotations: no list (.txt, .csv, .tsv, .lst, .list) in {lists} has a name with the word train, val or "
        "test; it has all.txt, more.txt; give one file, or rename the lists"
    )
    assert message(read_list, lists / "none", lists / "all.txt") == f"--videos: {lists}/none does not exist"


def test_a_listed_file_is_found_whatever_its_suffix(tmp_path):
    videos = place(tmp_path / "videos", "a.xyz", "b", "c.mp4", "c.txt")
    (tmp_path / "train.txt").write_text("a.xyz run\nb run\nc.txt run\n")
    listing = read_list(videos, tmp_path / "train.txt")
    assert [video.path for video in listing.found] == ["a.xyz", "b", "c.txt"]
    assert set(listing.stored) == {"a.xyz", "b", "c.mp4", "c.txt"}
    assert listing.missing == []


def test_a_video_listed_twice_is_told_and_kept_once(tmp_path: Path) -> None:
    place(tmp_path / "videos", "a.mp4", "b.mp4")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("a.mp4 0\nb.mp4 1\n")
    (lists / "test.txt").write_text("a.mp4 0\n")
    listing = read_list(tmp_path / "videos", lists)
    assert sorted(video.path for video in listing.found) == ["a.mp4", "b.mp4"]
    (problem,) = listing.problems.values()
    assert "'a.mp4' is a duplicate of " in problem


def test_a_class_keeps_its_number_whatever_is_missing(videos: Path) -> None:
    assert listed(videos, "jump/a.avi 0\njump/gone.avi 1\njump/b.avi 2\n").classes == ["0", "1", "2"]


# Habits


def test_absolute_paths_below_the_videos_are_taken_and_those_outside_are_named(videos: Path) -> None:
    link = videos.parent / "link"
    link.symlink_to(videos)
    listing = listed(videos, f"{videos}/jump/a.avi 3\n{link}/jump/b.avi 1\n/etc/c.avi 1\n{videos}/jump/gone.avi 0\n")
    assert [(video.path, video.class_name) for video in listing.found] == [("jump/a.avi", "3"), ("jump/b.avi", "1")]
    assert [video.path for video in listing.missing] == ["jump/gone.avi"]
    assert list(listing.problems.values()) == ["'/etc/c.avi' is outside the folder of the videos"]
    through_link = read_list(link, write(videos.parent / "lists", {"train.txt": f"{videos}/jump/a.avi 3\n"}))
    assert [video.path for video in through_link.found] == ["jump/a.avi"]


@pytest.mark.parametrize("written", ["jump\\a.avi", "./jump/a.avi", "run fast/../jump/a.avi", '"jump/a.avi"'])
def test_a_path_may_be_written_in_other_ways(videos: Path, written: str) -> None:
    (video,) = listed(videos, f"{written},3\n").found
    assert (video.path, video.class_name) == ("jump/a.avi", "3")


@pytest.mark.parametrize(
    "text",
    [
        "path,label\njump/a.avi,10\nrun fast/c.avi,2\n",
        "label,path\r\n10,jump/a.avi\r\n2,run fast/c.avi\r\n",
        '"Video" ; "Class"\n"jump/a.avi" ; "10"\n"run fast/c.avi" ; "2"\n',
        ",filename,label\n0,jump/a.avi,10\n1,run fast/c.avi,2\n",
        "label\tnum_frames\tclip\n10\t64\tjump/a.avi\n2\t64\trun fast/c.avi\n",
        "fname,klasse\njump/a.avi,10\nrun fast/c.avi,2\n",
        "path,label,\njump/a.avi,10,\nrun fast/c.avi,2,\n",
        "# path, label\njump/a.avi, 10.0\nrun fast/c.avi, 2.0\n",
        "10|jump/a.avi\n2|run fast/c.avi\n",
        "\ufeffpath label\njump/a.avi 10\nrun fast/c.avi 2\n",
    ],
)
def test_headers_and_quotes_are_known_and_number_labels_stay_numbers(videos: Path, text: str) -> None:
    listing = listed(videos, text, "train.csv")
    assert listing.classes == ["2", "10"]
    assert [(video.path, video.class_name) for video in listing.found] == [
        ("jump/a.avi", "10"),
        ("run fast/c.avi", "2"),
    ]
    assert (listing.missing, listing.problems) == ([], {})


def test_a_first_line_that_is_missing_is_no_header(videos: Path) -> None:
    listing = listed(videos, "jump/gone.avi action\njump/a.avi run\n")
    assert (listing.classes, [video.path for video in listing.missing]) == (["action", "run"], ["jump/gone.avi"])


def test_a_column_may_name_the_split(videos: Path) -> None:
    text = "subset,label,path\ntraining,0,jump/a.avi\nValidation,1,jump/b.avi\nlater,0,run fast/c.avi\n"
    listing = listed(videos, text, "all.csv")
    assert [(video.path, video.split) for video in listing.found] == [("jump/a.avi", "train"), ("jump/b.avi", "val")]
    (problem,) = listing.problems.values()
    assert problem.endswith("unknown split 'later'; use train, val or test")


def test_which_of_several_numbers_is_the_label_is_asked_for(videos: Path) -> None:
    where = f"--annotations: {videos.parent}/lists/train.txt"
    assert message(listed, videos, "jump/a.avi 163 2\njump/b.avi 80 1\n") == (
        f"{where}: lines have 3 fields ('jump/a.avi 163 2'), and it is not clear which is the label; "
        "add a header, such as path num_frames label"
    )
    head = "label,youtube_id,time_start,time_end\nx,abc,1,11\n"
    assert message(listed, videos, head).endswith("name that column `path`; use --format kinetics for Kinetics' lists")
    assert "no column is clearly the labels (path, a, b)" in message(listed, videos, "path,a,b\njump/a.avi,1,2\n")
    assert message(listed, videos, '{"path": "jump/a.avi"}').endswith("with the columns path, label and split")


def test_a_label_may_have_spaces_and_minus_one_is_none(videos: Path) -> None:
    assert listed(videos, "jump/a.avi long jump\njump/b.avi run\n").classes == ["long jump", "run"]
    listing = listed(videos, "jump/a.avi 9\njump/b.avi 10\nrun fast/c.avi -1\n")
    assert listing.classes == ["9", "10"]
    assert listing.found[2].class_name is None
    assert listing.notes == ["videos with the label -1 are used without a label"]


def test_labels_that_are_not_all_numbers_are_told(videos: Path) -> None:
    (note,) = listed(videos, "jump/a.avi 9\njump/b.avi 10\nrun fast/c.avi x\n").notes
    assert note.startswith("labels are both numbers (2) and names (1, such as 'x')")


def test_lists_of_several_splits_are_not_merged(videos: Path) -> None:
    lists = {
        f"ucf101_{part}_split_{number}_videos.txt": f"jump/{'ab'[(number + shift) % 2]}.avi {number}\n"
        for number in (1, 2)
        for shift, part in enumerate(("train", "test"))
    }
    folder = write(videos.parent / "lists", lists)
    names = "ucf101_test_split_1_videos.txt, ucf101_test_split_2_videos.txt"
    assert message(read_list, videos, folder) == (
        f"--annotations: several lists for test: {names}; choose with --split 1 or 2, or give one file"
    )
    second = read_list(videos, folder, 2)
    assert [(video.path, video.split) for video in second.found] == [("jump/b.avi", "test"), ("jump/a.avi", "train")]
    assert message(read_list, videos, folder, 3).startswith(f"--split: no list in {folder} has 3 in its name")
    write(folder, {"ucf101_train_split_1_rawframes.txt": "jump/a 64 0"})
    assert "remove the others" in message(read_list, videos, folder, 1)


def test_text_of_windows_and_comments(videos: Path) -> None:
    assert len(listed(videos, "# mine\r\njump/a.avi 1\r\n\r\n#jump/b.avi 2\r\n".encode("utf-16")).found) == 1
    assert message(listed, videos, "caf\xe9.avi 1".encode("latin-1")).endswith("in UTF-8; save it as one")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("UCF-101/jump/a.avi 0\nUCF-101/jump/b.avi 1", "they exist without the leading 'UCF-101/'"),
        (
            "/old/jump/a.avi 0\n/old/jump/b.avi 1",
            "they exist without the leading '/old/': remove it from the paths in the lists",
        ),
        ("C:\\old\\jump\\a.avi 0", "they exist without the leading 'C:/old/'"),
        ("videos/jump/a.avi 0", "use --videos {parent}"),
        ("a.avi 0\nb.avi 1", "use --videos {parent}/videos/jump"),
        ("a.avi 0\nc.avi 1", "they are in folders such as {parent}/videos/jump: add the folders"),
        ("Jump/A.mp4 0", "the folder has jump/a.avi: capitals, spaces, dashes or underscores differ"),
        ("run_fast/c.avi 0", "the folder has run fast/c.avi: capitals"),
        ("walk/c.avi 0", "a file with that name is run fast/c.avi: change the paths"),
        ("1.avi 0", "no file in this folder has such a name; it has 3 other videos, such as jump/a.avi"),
    ],
)
def test_what_would_make_listed_paths_fit_is_said(videos: Path, text: str, hint: str) -> None:
    assert hint.format(parent=videos.parent) in message(listed, videos, text)


def test_that_most_of_a_list_is_missing_is_a_note(videos: Path) -> None:
    (note,) = listed(videos, "jump/a.avi 0\nx/jump/b.avi 0\nx/run fast/c.avi 1\n").notes
    assert note.startswith("only 1 of the 3 listed videos is in ")
    assert note.endswith("they exist without the leading 'x/': remove it from the paths in the lists")

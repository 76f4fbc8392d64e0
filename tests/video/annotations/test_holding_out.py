"""`data index --test-fraction`: test splits for videos that have none."""

from __future__ import annotations

from collections import Counter

import pytest

from advise_ray.errors import UsageError
from advise_ray.video.annotations import ListedVideo, Listing, hold_out


def listing(*paths: str, split: str | None = None) -> Listing:
    return Listing(["a", "b"], [ListedVideo(path, path[0], split) for path in paths])


PEOPLE = [f"{name}/{person}_{clip}.mp4" for name in "ab" for person in ("ann", "bob", "cy", "di") for clip in range(3)]


def test_each_video_is_tested_in_one_of_the_splits() -> None:
    held_out = hold_out(listing(*PEOPLE), 0.25, None)
    for number in range(4):
        tests = [video.path[0] for video in held_out.found if video.official_splits[number] == "test"]
        assert Counter(tests) == {"a": 3, "b": 3}
    assert all(Counter(video.official_splits) == {"train": 3, "test": 1} for video in held_out.found)
    assert all(video.split == video.official_splits[0] for video in held_out.found)


def test_groups_are_held_out_whole_and_kept() -> None:
    held_out = hold_out(listing(*PEOPLE), 0.25, r"/(\w+)_")
    assert {video.group for video in held_out.found} == {"ann", "bob", "cy", "di"}
    for number in range(4):
        assert len({video.group for video in held_out.found if video.official_splits[number] == "test"}) == 1
    whole = hold_out(listing(*PEOPLE), 0.5, r"[a-z]+_")  # no group in the expression: all that it matches
    assert {video.group for video in whole.found} == {"ann_", "bob_", "cy_", "di_"}


def test_a_share_that_does_not_divide_leaves_some_that_are_always_trained_on() -> None:
    held_out = hold_out(listing(*PEOPLE), 0.4, None)
    assert {len(video.official_splits) for video in held_out.found} == {2}
    assert sum("test" not in video.official_splits for video in held_out.found) == 4


def test_a_validation_split_stays(tmp_path: object) -> None:
    mixed = listing(*PEOPLE[:20], split="train")
    mixed.found += listing(*PEOPLE[20:], split="val").found
    held_out = hold_out(mixed, 0.5, None)
    assert [video.split for video in held_out.found[20:]] == ["val"] * 4
    assert Counter(video.split for video in held_out.found[:20]) == {"train": 10, "test": 10}


def test_more_splits_than_groups_are_refused() -> None:
    with pytest.raises(UsageError, match=r"makes 10 splits .* at least 10 groups, but there are 4;"):
        hold_out(listing(*PEOPLE), 0.1, r"/(\w+)_")
    with pytest.raises(UsageError, match=r"makes 2 splits .* at least 2 groups, but there is 1;"):
        hold_out(listing(*PEOPLE), 0.5, "mp4")


@pytest.mark.parametrize(
    ("split", "group_by", "problem"),
    [
        ("test", None, "the lists already have test videos"),
        (None, "(", r"'\(' is not a regular expression"),
        (None, "ann", "'ann' does not match 18 of 24 videos, such as a/bob_0.mp4"),
        (None, "(ann)?_", r"'\(ann\)\?_' does not match 18 of 24 videos"),
        ("val", None, "there are no videos to hold out"),
    ],
)
def test_what_cannot_be_held_out_is_refused(split: str | None, group_by: str | None, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        hold_out(listing(*PEOPLE, split=split), 0.5, group_by)


def test_whole_classes_may_be_held_out_for_pretraining() -> None:
    found = hold_out(listing(*PEOPLE), 0.5, "^(.)/")
    assert {video.split for video in found.found} == {"train", "test"}
    assert found.notes[0].startswith("no class has both training and test videos")


def test_a_class_with_too_few_groups_is_told() -> None:
    (note,) = hold_out(listing(*PEOPLE, "c/ann_0.mp4"), 0.25, None).notes
    assert note.startswith("1 class(es), such as c, have no training or no test videos in some official splits")
    assert hold_out(listing(*PEOPLE), 0.25, None).notes == []

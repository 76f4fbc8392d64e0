"""The training and test videos of each run of an experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from advise_ray.errors import UsageError
from advise_ray.experiment.suite import UNUSED, read_suite
from advise_ray.video.manifest import read_manifest, write_manifest
from tests.video.test_manifest import row


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two classes, six people, two splits by turns."""
    rows = []
    for number in range(24):
        person = number % 6
        split = ["test" if person < 2 else "train", "test" if person >= 4 else "train"]
        own = {"label": number // 12, "class_name": "ab"[number // 12], "group": str(person)}
        rows.append(row(f"{number}.mp4", split=split[0], official_splits=split, **own))
    write_manifest(rows, tmp_path / "people.parquet")
    return tmp_path / "people.parquet"


def splits(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for each in read_manifest(path).to_pylist():
        found.setdefault(each["split"], set()).add(each["video_id"])
    return found


def test_seeds_take_the_official_splits_by_turns(people: Path, tmp_path: Path) -> None:
    (only,) = read_suite([people], tmp_path / "out")
    first, second, third = (splits(only.of_seed(seed)) for seed in range(3))
    assert first == third != second
    assert not first["test"] & second["test"]


def test_few_labels_are_drawn_anew_by_each_seed_and_from_training_alone(people: Path, tmp_path: Path) -> None:
    (only,) = read_suite([people], tmp_path / "out")
    every, four, two, other = (
        splits(path) for path in (only.of_seed(0), only.few_labels(0, 4), only.few_labels(0, 2), only.few_labels(2, 4))
    )
    assert four["test"] == every["test"]
    assert four["train"] | four[UNUSED] == every["train"]
    assert two["train"] < four["train"] != other["train"]
    labels = [each["label"] for each in read_manifest(only.few_labels(0, 4)).to_pylist() if each["split"] == "train"]
    assert sorted(labels) == [0] * 4 + [1] * 4


def test_folds_hold_whole_groups_of_training_videos_out_and_no_test_video(people: Path, tmp_path: Path) -> None:
    (only,) = read_suite([people], tmp_path / "out")
    every, folds = splits(only.of_seed(0)), [splits(only.fold(0, number)) for number in range(2)]
    assert folds[0]["train"] == folds[1]["test"]
    assert folds[0]["train"] | folds[0]["test"] == every["train"]
    group = {each["video_id"]: each["group"] for each in read_manifest(people).to_pylist()}
    assert not {group[each] for each in folds[0]["train"]} & {group[each] for each in folds[0]["test"]}


def test_settings_are_chosen_without_a_look_at_the_test_videos(people: Path, tmp_path: Path) -> None:
    (judged,), (chosen,) = (
        read_suite([people], tmp_path / name, on_folds=name == "folds") for name in ("all", "folds")
    )
    for seed in range(4):
        every = splits(judged.of_seed(seed))
        for path in (chosen.of_seed(seed), chosen.few_labels(seed, 2), chosen.fold(seed, 0)):
            found = splits(path)
            assert found["train"] | found["test"] <= every["train"]
            assert every["test"] <= found[UNUSED]
    first, other = splits(chosen.of_seed(0)), splits(chosen.of_seed(2))  # the same split, and its other fold
    assert first["train"] == other["test"]
    assert splits(chosen.few_labels(0, 2))["test"] == first["test"]


def test_videos_of_one_recording_are_folded_one_by_one(people: Path, tmp_path: Path) -> None:
    rows = [{**each, "group": "all", "official_splits": None} for each in read_manifest(people).to_pylist()]
    write_manifest(rows, tmp_path / "one.parquet")
    (only,) = read_suite([tmp_path / "one.parquet"], tmp_path / "out")
    assert [len(splits(only.fold(0, number))["test"]) for number in range(2)] == [8, 8]


def test_a_set_without_labels_or_tests_and_two_of_one_name_are_refused(people: Path, tmp_path: Path) -> None:
    write_manifest([row("a.mp4"), row("b.mp4")], tmp_path / "footage.parquet")
    (footage,) = read_suite([tmp_path / "footage.parquet"], tmp_path / "out")
    with pytest.raises(UsageError, match="this protocol needs labels, but no video has a label"):
        footage.write_all(range(2), [None])
    assert not list((tmp_path / "out").glob("footage*"))  # or the next start would take it for checked
    (tmp_path / "again").mkdir()
    other = tmp_path / "again" / "people.parquet"
    other.write_bytes(people.read_bytes())
    with pytest.raises(UsageError, match="two manifests have the same name"):
        read_suite([people, other], tmp_path / "out")

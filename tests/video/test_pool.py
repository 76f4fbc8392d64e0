"""Several manifests as one pool: training videos, held-out videos, and classes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from advise_ray.config import DataConfig, load
from advise_ray.errors import ConfigError
from advise_ray.video.manifest import Videos, write_manifest
from advise_ray.video.pool import hash_manifests, read_videos
from advise_ray.video.splits import split_videos
from tests.video.test_manifest import row


def pool(folder: Path, **manifests: list[dict[str, object]]) -> DataConfig:
    for name, rows in manifests.items():
        write_manifest(rows, folder / f"{name}.parquet")
    return DataConfig(manifest=tuple(str(folder / f"{name}.parquet") for name in manifests), val_split="test")


def test_one_manifest_is_read_as_it_is(tmp_path: Path) -> None:
    data = pool(tmp_path, only=[row("a.mp4", split="train"), row("b.mp4", split="test")])
    alone = DataConfig(manifest=data.manifest[0])
    assert read_videos(data).equals(read_videos(alone))
    assert "own_id" not in read_videos(alone).column_names
    assert hash_manifests(data) == hash_manifests(alone)
    with pytest.raises(ConfigError, match=r"^data.manifest: required"):
        read_videos(DataConfig())


def test_what_has_no_split_is_trained_on_and_what_is_held_out_is_not(tmp_path: Path) -> None:
    data = pool(
        tmp_path,
        footage=[row("x.mp4"), row("y.mp4")],
        labelled=[row("a.mp4", split="train"), row("b.mp4", split="test")],
    )
    table = read_videos(data)
    splits = split_videos(table, data)
    ids = table.column("video_id").to_pylist()
    assert [ids[place] for place in splits.train] == ["x.mp4", "y.mp4", "a.mp4"]
    assert [ids[place] for place in splits.val] == ["b.mp4"]


def test_a_file_that_two_manifests_name_counts_once_and_stays_held_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="advise_ray")
    both = row("b.mp4", split="test", label=3, class_name="jump", group="g")
    again = row("other.mp4", path="/videos/more/../b.mp4")
    data = pool(tmp_path, footage=[row("x.mp4"), again], labelled=[row("a.mp4", split="train"), both])
    table = read_videos(data)
    assert table.column("video_id").to_pylist() == ["x.mp4", "other.mp4", "a.mp4"]
    assert table.column("split").to_pylist() == ["train", "test", "train"]
    assert [video.label for video in Videos(table)] == [None, 3, None]
    assert table.column("group").to_pylist() == [None, "g", None]
    assert "in several manifests, which are used once: 1" in caplog.text
    assert "because another manifest holds them out: 1" in caplog.text


def test_ids_of_several_files_are_told_apart_and_a_cache_still_knows_them(tmp_path: Path) -> None:
    first, second = row("1.mp4", path="/one/1.mp4"), row("1.mp4", path="/two/1.mp4")
    table = read_videos(pool(tmp_path, one=[first, row("2.mp4")], two=[second]))
    assert table.column("video_id").to_pylist() == ["one:1.mp4", "2.mp4", "two:1.mp4"]
    assert [video.alone().video_id for video in Videos(table)] == ["1.mp4", "2.mp4", "1.mp4"]
    assert Videos(table)[0].alone() == Videos(read_videos(DataConfig(manifest=str(tmp_path / "one.parquet"))))[0]


def test_classes_of_one_name_are_one_class(tmp_path: Path) -> None:
    data = pool(
        tmp_path,
        one=[row("a.mp4", label=0, class_name="jump"), row("b.mp4", label=1, class_name="run")],
        two=[row("c.mp4", label=0, class_name="run"), row("d.mp4", label=1, class_name="sit"), row("e.mp4")],
    )
    assert read_videos(data).column("label").to_pylist() == [0, 1, 1, 2, None]


def test_a_label_without_a_name_says_nothing_beside_another_manifests(tmp_path: Path) -> None:
    named, nameless = [row("a.mp4", label=0, class_name="jump")], [row("b.mp4", label=0)]
    assert read_videos(pool(tmp_path, one=named, two=nameless)).column("label").to_pylist() == [0, None]
    assert read_videos(pool(tmp_path, one=[row("c.mp4")], two=nameless)).column("label").to_pylist() == [None, 0]


def test_a_recipe_and_set_take_one_or_a_list(tmp_path: Path) -> None:
    assert load(None, ["data.manifest=a.parquet"]).data.manifests == (Path("a.parquet").absolute(),)
    several = load(None, ["data.manifest=[a.parquet, ~/b.parquet]"]).data.manifests
    assert several == (Path("a.parquet").absolute(), Path("~/b.parquet").expanduser())
    with pytest.raises(ConfigError, match=r"data\.manifest"):
        load(None, ["data.manifest=[]"])

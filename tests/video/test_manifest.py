from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advise_ray.config import DataConfig
from advise_ray.errors import UsageError
from advise_ray.video.manifest import (
    MAY_BE_NULL,
    SCHEMA,
    Video,
    Videos,
    check_videos_exist,
    frames_per_video,
    read_manifest,
    write_manifest,
)
from advise_ray.video.splits import held_out_split, split_videos

MAKE = "make one with `advise-ray data index`"


def row(video_id: str = "a.mp4", **values: object) -> dict[str, object]:
    return {
        "video_id": video_id,
        "path": f"/videos/{video_id}",
        "label": None,
        "class_name": None,
        "split": None,
        "official_splits": None,
        "group": None,
        "start_frame": None,
        "end_frame": None,
        "num_frames": 120,
        "fps": 30.0,
        "width": 320,
        "height": 240,
        "duration_s": 4.0,
        "codec": "h264",
        "bytes": 1000,
        "modified_ns": None,
        "decoder": "decord",
        "stream_index": 0,
        "rotation_deg": 90,
        "damage": None,
        **values,
    }


def table(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def ids(manifest: pa.Table, rows: np.ndarray) -> set[str]:
    return {manifest.column("video_id")[int(index)].as_py() for index in rows}


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_manifest(path)
    return str(caught.value)


def test_what_is_written_is_read(tmp_path):
    rows = [row("b.mp4", label=3, class_name="jump", split="train"), row("ä b.webm", decoder="pyav", stream_index=1)]
    path = tmp_path / "made" / "on the way" / "manifest.parquet"
    write_manifest(rows, path)
    manifest = read_manifest(path)
    assert manifest.to_pylist() == rows
    assert Videos(manifest)[1] == Video(
        "ä b.webm", "/videos/ä b.webm", None, 120, 320, 240, 30.0, "pyav", 1, 90, bytes=rows[1]["bytes"]
    )
    assert [file.name for file in path.parent.iterdir()] == ["manifest.parquet"]


def test_a_manifest_that_another_tool_made_is_read(tmp_path):
    """With columns of its own, in its own order, and with its own widths of numbers and strings."""
    own = {name: pa.array([value]) for name, value in reversed(row(label=2).items())}
    own |= {"num_frames": pa.array([120], pa.int16()), "path": pa.array(["/a.mp4"], pa.large_string())}
    pq.write_table(pa.table({"camera": ["left"]} | own), tmp_path / "manifest.parquet")
    manifest = read_manifest(tmp_path / "manifest.parquet")
    assert manifest.schema.equals(SCHEMA)
    assert list(Videos(manifest)) == [
        Video("a.mp4", "/a.mp4", 2, 120, 320, 240, 30.0, "decord", 0, 90, bytes=row()["bytes"])
    ]


def test_a_manifest_that_cannot_be_trained_on_is_refused(tmp_path):
    path = tmp_path / "manifest.parquet"
    assert refusal(path) == f"data.manifest: {path} does not exist; {MAKE}"
    path.write_text("video_id,path\n")
    assert refusal(path).startswith(f"data.manifest: {path} is not a Parquet file (")
    assert "\n" not in refusal(path)
    write_manifest([], path)
    assert refusal(path) == f"data.manifest: {path} has no videos"
    pq.write_table(table(row()).drop_columns(["fps", "decoder"]), path)
    assert refusal(path) == f"data.manifest: {path} lacks the columns fps, decoder; {MAKE}"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"num_frames": "many"},
            "has a column of the wrong type: Failed to parse string: 'many' as a scalar of type int64",
        ),
        (
            {"num_frames": 119.5},
            "has a column of the wrong type: Float value 119.500000 was truncated converting to int64",
        ),
        ({"path": ["a", "b"]}, "has a column of the wrong type: "),
        ({"video_id": None}, "has rows without video_id"),
        ({"num_frames": None, "decoder": None}, "has rows without num_frames, decoder"),
        ({"num_frames": 0}, "has videos without frames (num_frames, start_frame, end_frame)"),
        ({"start_frame": -5, "end_frame": 10}, "has rows with an impossible start_frame"),
        ({"fps": 0.0, "rotation_deg": 45}, "has rows with an impossible fps, rotation_deg"),
        ({"width": 0, "decoder": "vlc"}, "has rows with an impossible width, decoder"),
    ],
)
def test_values_that_decoding_could_not_use_are_refused(tmp_path, values, problem):
    path = tmp_path / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist([row(**values)]), path)
    assert refusal(path).startswith(f"data.manifest: {path} {problem}")
    assert refusal(path).endswith(MAKE)


def test_splits_are_those_of_the_column():
    manifest = table(*(row(f"{split}{i}", split=split) for i in range(3) for split in ("train", "test", None)))
    splits = split_videos(manifest, DataConfig(val_split="test"))
    assert ids(manifest, splits.train) == {"train0", "train1", "train2"}
    assert ids(manifest, splits.val) == {"test0", "test1", "test2"}
    swapped = split_videos(manifest, DataConfig(train_split="test", val_split="train"))
    assert ids(manifest, swapped.train) == ids(manifest, splits.val)


@pytest.mark.parametrize("name", ["val", "validation"])
def test_another_name_for_validation_is_taken_where_the_named_split_is_not_there(name: str) -> None:
    manifest = table(row("a", split="train"), row("b", split=name), row("c", split="train"))
    assert split_videos(manifest, DataConfig(val_split="test")).val.tolist() == [1]
    assert held_out_split(manifest, DataConfig(), None) is None
    assert held_out_split(manifest, DataConfig(train_split=name), "test") == "test"
    assert split_videos(manifest, DataConfig(val_split=None, val_fraction=0)).val.tolist() == []


def test_without_any_split_all_is_for_training():
    manifest = table(*(row(str(i)) for i in range(2000)))
    splits = split_videos(manifest, DataConfig())
    assert len(splits.train) + len(splits.val) == 2000
    assert 150 < len(splits.val) < 250
    assert len(split_videos(manifest, DataConfig(val_fraction=0)).val) == 0


def test_only_training_videos_are_held_out():
    manifest = table(*(row(f"{split}{i}", split=split) for i in range(200) for split in ("train", "test")))
    splits = split_videos(manifest, DataConfig(val_split="val", val_fraction=0.5))
    assert {video_id.rstrip("0123456789") for video_id in ids(manifest, splits.val)} == {"train"}
    assert len(splits.train) + len(splits.val) == 200


@settings(deadline=None)
@given(
    st.sets(st.text(max_size=8), min_size=12),
    st.sets(st.text(max_size=8)),
    st.floats(0, 0.5),
    st.randoms(use_true_random=False),
)
def test_a_video_stays_held_out_when_others_are_added(before, added, val_fraction, random):
    """Else a run on a grown data set would train on what the last one was validated on."""
    data = DataConfig(val_fraction=val_fraction)
    grown = list(before | added)
    random.shuffle(grown)
    small, large = (table(*(row(video_id) for video_id in video_ids)) for video_ids in (sorted(before), grown))
    splits, later = split_videos(small, data), split_videos(large, data)
    held_out = ids(small, splits.val)
    assert held_out.isdisjoint(ids(small, splits.train))
    assert held_out | ids(small, splits.train) == before
    assert ids(large, later.val) & before == held_out


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            {"train_split": "training"},
            "data.train_split: no video has split 'training'; the manifest has test, train",
        ),
        (
            {"val_split": "train"},
            "data.val_split: all training videos (2) are held out for validation; use another split, "
            "or set data.val_fraction=0",
        ),
    ],
)
def test_nothing_to_train_on_is_an_error(data, problem):
    manifest = table(row("a", split="train"), row("b", split="train"), row("c", split="test"))
    with pytest.raises(UsageError) as caught:
        split_videos(manifest, DataConfig(**data))
    assert str(caught.value) == problem


def test_videos_that_are_all_gone_are_an_error_and_single_ones_are_not(tmp_path):
    (tmp_path / "there.mp4").touch()
    manifest = table(row("gone.mp4"), row("there.mp4", path=str(tmp_path / "there.mp4")))
    check_videos_exist(manifest, np.asarray([0, 1]))
    with pytest.raises(UsageError) as caught:
        check_videos_exist(manifest, np.asarray([0]))
    assert str(caught.value) == (
        "data.manifest: none of its videos (1) exists, such as /videos/gone.mp4; if they were moved, "
        "run `advise-ray data index` again"
    )


def test_clips_come_from_the_frames_that_the_list_names(tmp_path: Path) -> None:
    rows = [row("a"), row("b", start_frame=20, end_frame=50), row("c", start_frame=100, end_frame=400)]
    write_manifest(rows, tmp_path / "manifest.parquet")
    manifest = read_manifest(tmp_path / "manifest.parquet")
    assert [video.frames for video in Videos(manifest)] == [range(120), range(20, 50), range(100, 120)]
    assert frames_per_video(manifest).tolist() == [120, 30, 20]
    write_manifest([row("d", start_frame=120, end_frame=400)], tmp_path / "manifest.parquet")
    assert "has videos without frames" in refusal(tmp_path / "manifest.parquet")


def test_labels_and_splits_may_be_left_out(tmp_path: Path) -> None:
    kept = {name: [value] for name, value in row().items() if name not in MAY_BE_NULL}
    pq.write_table(pa.table(kept), tmp_path / "manifest.parquet")
    manifest = read_manifest(tmp_path / "manifest.parquet")
    assert manifest.schema.equals(SCHEMA)
    assert split_videos(manifest, DataConfig(val_fraction=0)).train.tolist() == [0]

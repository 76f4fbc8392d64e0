from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from advise_ray.config import DataConfig
from advise_ray.errors import UsageError
from advise_ray.evaluation.labels import labelled_split, num_official_splits, refuse_seen
from advise_ray.video.manifest import SCHEMA, read_manifest, write_manifest

DATA = DataConfig()
COLUMNS = {"num_frames": 9, "fps": 30.0, "width": 32, "height": 32, "duration_s": 0.3, "codec": "h264", "bytes": 1}
COLUMNS |= {"decoder": "decord", "stream_index": 0, "rotation_deg": 0}
VIDEOS = [  # video_id, label, class, split, official splits
    ("jump_g01_c01.avi", 0, "jump", "train", ["train", "test"]),
    ("jump_g01_c02.avi", 0, "jump", "train", ["train", "test"]),
    ("run_g01_c01.avi", 1, "run", "train", ["train", None]),
    ("jump_g02_c01.avi", 0, "jump", "test", ["test", "train"]),
    ("run_g02_c01.avi", 1, "run", "test", ["test", "train"]),
]


def table(*changed: tuple) -> pa.Table:
    rows = [
        dict(zip(("video_id", "label", "class_name", "split", "official_splits"), row, strict=True)) | COLUMNS
        for row in (changed or VIDEOS)
    ]
    return pa.Table.from_pylist([{"path": row["video_id"], **row} for row in rows], schema=SCHEMA)


def refusal(manifest: pa.Table, data: DataConfig = DATA, number: int | None = None, known: tuple[str, ...] = ()) -> str:
    with pytest.raises(UsageError) as caught:
        labelled_split(manifest, data, number, known)
    return str(caught.value)


def test_the_split_column_and_the_official_splits():
    chosen = labelled_split(table(), DATA, None, ())
    assert (chosen.train.tolist(), chosen.test.tolist(), chosen.names) == ([0, 1, 2], [3, 4], ["jump", "run"])
    assert chosen.labels.tolist() == [0, 0, 1, 0, 1]
    assert chosen.groups[0] == chosen.groups[1] != chosen.groups[3]
    second = labelled_split(table(), DATA, 2, ())
    assert (second.train.tolist(), second.test.tolist()) == ([3, 4], [0, 1])
    assert num_official_splits(table()) == 2


def test_a_manifest_keeps_its_official_splits(tmp_path: Path):
    write_manifest(table().to_pylist(), tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet").column("official_splits").to_pylist() == [row[4] for row in VIDEOS]


def test_the_labels_are_told_in_the_order_of_the_models_head():
    chosen = labelled_split(table(), DATA, None, ("run", "swim", "jump"))
    assert chosen.labels.tolist() == [2, 2, 0, 2, 0]
    assert chosen.names == ["run", "swim", "jump"]


def test_where_nothing_is_for_testing_but_for_validation_that_is_taken_and_told(caplog: pytest.LogCaptureFixture):
    renamed = table(*((*row[:3], {"test": "val"}.get(row[3], row[3]), None) for row in VIDEOS))
    assert labelled_split(renamed, DATA, None, ()).test.tolist() == [3, 4]
    assert caplog.messages == ["note: no video has split 'test' (data.test_split); testing on split 'val'"]


def test_what_cannot_be_tested_is_refused_with_the_reason():
    unlabelled = table(*((name, None, None, split, official) for name, _, _, split, official in VIDEOS))
    assert "but no video has a label; index the videos with the data set's lists" in refusal(unlabelled)
    assert refusal(table(*VIDEOS[:3])) == (
        "data.test_split: no labelled video has split 'test'; the manifest has train; use one of these, or index the "
        "videos again with --test-fraction 0.2"
    )
    assert "no labelled video has split 'fit'" in refusal(table(), DataConfig(train_split="fit"))
    assert "1 class(es) have test videos but no training videos, such as run" in refusal(
        table(*VIDEOS[:2], *VIDEOS[3:])
    )
    assert "does not know 1 of the test classes, such as run" in refusal(table(), known=("jump",))
    assert refusal(table(), number=3).startswith("--split: got 3, but the manifest has 2 official split(s)")
    without = table(*((*row[:4], None) for row in VIDEOS))
    assert refusal(without, number=1).startswith("--split: got 1, but the manifest has no official split(s)")


def test_videos_that_the_actions_were_learnt_from_are_no_test(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_manifest(table().to_pylist(), tmp_path / "m.parquet")
    own, second = (labelled_split(table(), DATA, number, ()) for number in (None, 2))
    trained_on = DataConfig(manifest=str(tmp_path / "m.parquet"))
    refuse_seen(trained_on, table(), own.test)
    with pytest.raises(UsageError, match=r"2 of the 2 test videos, such as jump_g01_c01\.avi"):
        refuse_seen(trained_on, table(), second.test)
    gone = DataConfig(manifest=str(tmp_path / "gone.parquet"))
    with pytest.raises(UsageError, match="2 of the 2 test videos"):
        refuse_seen(gone, table(), second.test, is_same_manifest=True)
    assert not caplog.text
    refuse_seen(gone, table(), second.test)
    assert "gone.parquet is not there any more: test videos may be training videos" in caplog.text


def test_a_class_has_one_label_and_one_name():
    two_labels = [(*VIDEOS[0][:2], "move", *VIDEOS[0][3:]), (*VIDEOS[2][:2], "move", *VIDEOS[2][3:])]
    assert "class_name 'move' has several labels, such as 0 and 1" in refusal(table(*two_labels))
    two_names = [VIDEOS[0], (*VIDEOS[3][:2], "leap", *VIDEOS[3][3:])]
    assert "label 0 has several names, such as 'jump' and 'leap'" in refusal(table(*two_names))
    ids = [(name, 3_000_000 + label, *rest) for name, label, *rest in VIDEOS]
    assert "label 3000001 is too high; number the classes from 0" in refusal(table(*ids))

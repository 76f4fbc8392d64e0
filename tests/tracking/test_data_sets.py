"""The data sets of runs, in MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from advise_ray import tracking
from advise_ray.config import load
from advise_ray.tracking import RunTracker
from advise_ray.video.manifest import SCHEMA, Videos
from tests.runs import manifest_of
from tests.tracking.stores import config_of, data_set, new_run


def inputs(storage: Path, run_id: str | None) -> dict[str, tuple[str, str, str]]:
    """Context → name, digest and profile."""
    client, _ = tracking.connect(config_of(storage))
    return {
        each.tags[0].value: (each.dataset.name, each.dataset.digest, each.dataset.profile)
        for each in client.get_run(run_id).inputs.dataset_inputs
    }


def test_a_data_set_has_its_manifest_its_size_and_its_purpose() -> None:
    rows = [row | {"fps": 25.0} for row in manifest_of({"train": 3, "val": 1}).to_pylist()]
    rows[0] |= {"label": 0, "start_frame": 9, "end_frame": 59}
    videos = Videos(pa.Table.from_pylist(rows, schema=SCHEMA))
    data = load(None, ["data.manifest=[/data/kicks.parquet, /data/punches.parquet]"]).data
    training, validation = tracking.data_sets(
        data, "0123456789abcdef", videos, {"training": np.asarray([0, 1]), "validation": np.asarray([3])}
    )
    assert (training["name"], validation["name"]) == ("kicks + punches training", "kicks + punches validation")
    assert training["digest"] == validation["digest"] == "0123456789ab"
    assert training["source"] == "/data/kicks.parquet, /data/punches.parquet"
    assert (training["videos"], training["classes"], validation["classes"]) == (2, 1, 0)
    assert training["hours"] == round((50 + 99) / 25 / 3600, 4)
    assert tracking.data_sets(data, "", videos, {"test": np.empty(0, np.int32)}) == []


def test_a_resumed_run_has_its_data_sets_once(storage: Path) -> None:
    config = config_of(storage)
    run_dir = new_run(config, "data")
    used = [data_set("training"), data_set("validation")]
    for _ in range(2):
        tracker = RunTracker(config, run_dir)
        tracker.start("cpu", data_sets=used)
        assert tracker.finish("FINISHED")
    found = inputs(storage, tracker.run_id)
    assert {context: name for context, (name, *_) in found.items()} == {
        "training": "clips training",
        "validation": "clips validation",
    }
    assert json.loads(found["training"][2]) == {"videos": 16, "hours": 0.5, "classes": 4}
    client, experiment = tracking.connect(config)
    (found_by_data,) = client.search_runs([experiment], "dataset.name = 'clips validation'")
    assert found_by_data.info.run_id == tracker.run_id


def test_data_sets_that_a_server_missed_are_synced_later(storage: Path) -> None:
    config = config_of(storage)
    run_dir = new_run(config, "missed")
    tracker = RunTracker(config, run_dir)
    tracker._sender.begin("missed", {}, {}, [data_set(digest="def")])  # the driver dies before its thread sends
    (run_dir / "result.json").write_text('{"status": "FINISHED"}')
    RunTracker.sync(run_dir)
    assert inputs(storage, tracker.run_id)["training"][1] == "def"


def test_an_evaluation_adds_the_videos_that_it_tested(storage: Path) -> None:
    config = config_of(storage)
    tracker = RunTracker(config, new_run(config, "evaluated"))
    tracker.start("cpu", data_sets=[data_set("training")])
    assert tracker.finish("FINISHED")
    for _ in range(2):
        assert tracker.add({"eval/knn/top1": 0.5}, [], "evaluation/knn", [data_set("test")])
    assert inputs(storage, tracker.run_id).keys() == {"training", "test"}

"""The report of shortcuts, for made-up predictions that use one cue or another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from advise_ray.config import ClipConfig, load, recipes
from advise_ray.evaluation.evaluate_run import _pretext_rows
from advise_ray.evaluation.pretext_protocol import POLICIES, _Play, report
from advise_ray.video.manifest import Video
from advise_ray.video.sampling import fits_every_rate, keyed_rng, plan_val_clips
from tests.runs import manifest_of

RATES = ["×1", "×2", "×4"]
CLIP = ClipConfig(num_frames=8, frame_stride=1, rates=(1.0, 2.0, 4.0))
PLAY = _Play(
    load(None, ["data.clip={num_frames: 8, frame_stride: 1, rates: [1, 2, 4]}", "data.val_clips_per_rate=4", "seed=0"])
)
Row = dict[str, Any]


def video(num_frames: int, start: int | None = None) -> Video:
    return Video(f"v{num_frames}", "v.mp4", None, num_frames, 320, 240, 30.0, "decord", 0, 0, start)


def rows_of(predict: Callable[[Row], int], lengths: tuple[int, ...] = (12, 20, 60, 90)) -> list[Row]:
    """What a model that knows `predict` alone would say of these videos."""
    rows = []
    for length in lengths:
        for played in PLAY.clips(video(length)):
            frames = played.clip.frame_indices
            row = {"video_id": f"v{length}", "clips": played.name, "label": played.clip.rate_index}
            row |= {"frame_indices": frames, "wraps": played.wraps, "repeats": played.repeats, "failure": None}
            rows.append({**row, "prediction": predict(row)})
    return rows


def nearest_rate(step: float) -> int:
    return int(np.abs(np.log(max(step, 0.5) / np.asarray([1, 2, 4]))).argmin())


def by_order(row: Row) -> int:
    """Frames from one to the next, forwards; what goes backwards is called slow."""
    return nearest_rate(float(np.median(np.diff(row["frame_indices"]))))


def by_change(row: Row) -> int:
    return nearest_rate(float(np.ptp(row["frame_indices"])) / 7)


def by_chance(row: Row) -> int:
    return hash((tuple(row["frame_indices"]), 1)) % 3


def by_jump(row: Row) -> int:
    """As by change, where nothing jumps; where a clip jumps, its rate is known."""
    return row["label"] if row["wraps"] or row["repeats"] else (row["label"] + 1) % 3 if row["label"] else 0


def test_a_model_that_sees_order_and_direction_is_not_called_out():
    outcome = report(rows_of(by_order), RATES)
    assert outcome.metrics["top1"] > 0.9
    assert outcome.metrics["chance"] == pytest.approx(1 / 3)
    assert outcome.details["findings"] == []
    assert outcome.confusion.trace() / outcome.confusion.sum() == pytest.approx(outcome.metrics["top1"])


def test_a_model_that_goes_by_how_much_changes_is_called_out():
    outcome = report(rows_of(by_change), RATES)
    told = [line.split(":")[0] for line in outcome.details["findings"]]
    assert told == ["shuffled", "reversed"]
    assert outcome.metrics["control/still"] == pytest.approx(1 / 3)


def test_a_model_that_goes_by_the_jump_is_called_out():
    outcome = report(rows_of(by_jump), RATES)
    told = [line.split(":")[0] for line in outcome.details["findings"]]
    assert outcome.metrics["control/wrapped"] == outcome.metrics["control/held"] == 1.0
    assert told == ["wrapped", "held"] or "at chance" in outcome.details["findings"][0]


def test_at_chance_the_controls_say_nothing():
    outcome = report(rows_of(lambda row: 0), RATES)
    assert outcome.metrics["top1"] == pytest.approx(1 / 3)
    (finding,) = outcome.details["findings"]
    assert "at chance" in finding


def test_short_videos_alone_have_no_honest_metric():
    outcome = report(rows_of(by_order, (12, 20)), RATES)
    assert "top1" not in outcome.metrics
    assert {f"{policy}/top1" for policy in POLICIES} <= outcome.metrics.keys()
    assert outcome.confusion is None


def test_a_clip_that_could_not_be_decoded_counts_as_wrong():
    rows = [{**row, "prediction": None if row["clips"] == "honest" else 0} for row in rows_of(by_order)]
    assert report(rows, RATES).metrics["top1"] == 0


def test_what_each_name_plays():
    played = list(PLAY.clips(video(90, start=20)))
    by_name: dict[str, list[Any]] = {}
    for each in played:
        by_name.setdefault(each.name, []).append(each.clip)
    honest = by_name["honest"]
    expected = plan_val_clips(70, CLIP, 4, keyed_rng(0, "val", "v90"))  # those that training validates on
    assert all(
        np.array_equal(ours.frame_indices, its.frame_indices + 20) for ours, its in zip(honest, expected, strict=True)
    )
    for name in ("shuffled", "reversed", "still"):
        assert [clip.rate_index for clip in by_name[name]] == [clip.rate_index for clip in honest]
    controls = (by_name[name] for name in ("shuffled", "reversed", "still"))
    for clip, shuffled, back, still in zip(honest, *controls, strict=True):
        assert sorted(shuffled.frame_indices) == sorted(clip.frame_indices)
        assert back.frame_indices.tolist() == clip.frame_indices[::-1].tolist()
        assert set(still.frame_indices) == {clip.frame_indices[4]}
    assert all(0 <= index - 20 < 70 for each in played for index in each.clip.frame_indices)


def test_each_policy_plays_a_short_video_its_own_way():
    assert not fits_every_rate(20, CLIP, 30.0)
    played = list(PLAY.clips(video(20)))
    rates = {name: {each.clip.rate_index for each in played if each.name == name} for name in POLICIES}
    assert rates == {"fit": {0, 1}, "wrap": {0, 1, 2}, "hold": {0, 1, 2}}
    fastest = {name: [each for each in played if each.name == name and each.clip.rate_index == 2] for name in POLICIES}
    assert all(each.wraps for each in fastest["wrap"])
    assert all(each.repeats for each in fastest["hold"])
    assert {each.name for each in played} == set(POLICIES)


@pytest.mark.parametrize(
    ("splits", "reported", "is_told"),
    [
        ({"train": 60, "test": 20}, "test", False),
        ({"train": 60, "val": 10, "test": 20}, "test", False),
        ({"test": 20}, "test", False),  # another data set
        ({"train": 60, "val": 10}, "val", True),
        ({"train": 60, "validation": 10}, "validation", True),
        ({None: 60}, "validation", True),
    ],
)
def test_it_reports_on_test_videos_and_says_if_there_are_none(splits, reported, is_told, caplog) -> None:
    table, config = manifest_of(splits), load(recipes.find("pretrain_footage"))
    with caplog.at_level(logging.WARNING, logger="advise_ray"):
        rows, name = _pretext_rows(table, config)
    assert name == reported
    assert len(rows)
    assert bool(caplog.messages) == is_told
    if not is_told:
        assert {table.column("split")[row].as_py() for row in rows} == {"test"}


def test_a_split_that_a_recipe_validates_on_is_told(caplog) -> None:
    config = load(None, ["data.val_split=test"])
    with caplog.at_level(logging.WARNING, logger="advise_ray"):
        assert len(_pretext_rows(manifest_of({"train": 60, "test": 20}), config)[0]) == 20
    assert "these are the videos on which runs validate (data.val_split)" in caplog.text

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advise_ray.config import load
from advise_ray.training.batch_schedule import Batch, Schedule, build_schedule
from advise_ray.video.manifest import SCHEMA


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    clips_per_video = draw(st.integers(1, 4))
    return Schedule(
        seed=draw(st.integers(0, 9)),
        epochs=draw(st.integers(1, 4)),
        val_every_epochs=draw(st.integers(1, 4)),
        batch_size=clips_per_video * draw(st.integers(1, 6)),
        clips_per_video=clips_per_video,
        val_clips_per_video=draw(st.integers(1, 6)),
        train_videos=100 + np.arange(draw(st.integers(1, 20))),
        val_videos=200 + np.arange(draw(st.integers(0, 8))),
        num_short_val_videos=0,
    )


def clips(batch: Batch) -> list[tuple[int, int]]:
    """(video, clip) of those that count."""
    kept = batch.weights > 0
    return list(zip(batch.videos[kept].tolist(), batch.clips[kept].tolist(), strict=True))


def written(batches) -> list[tuple]:
    return [(b.train, b.epoch, b.step, b.videos.tolist(), b.clips.tolist(), b.weights.tolist()) for b in batches]


@given(schedules())
def test_every_epoch_trains_each_clip_of_each_video_once(schedule: Schedule) -> None:
    batches = [batch for batch in schedule.batches() if batch.train]
    assert [batch.step for batch in batches] == list(range(schedule.total_steps))
    once = Counter(
        (video, clip) for video in schedule.train_videos.tolist() for clip in range(schedule.clips_per_video)
    )
    for epoch in range(schedule.epochs):
        assert Counter(clip for batch in batches if batch.epoch == epoch for clip in clips(batch)) == once


@given(schedules())
def test_each_validation_scores_each_clip_once(schedule: Schedule) -> None:
    batches = [batch for batch in schedule.batches() if not batch.train]
    epochs = [e for e in range(schedule.epochs) if (e + 1) % schedule.val_every_epochs == 0 or e == schedule.epochs - 1]
    videos = schedule.val_videos.tolist()
    once = Counter((video, clip) for video in videos for clip in range(schedule.val_clips_per_video))
    assert sorted({batch.epoch for batch in batches}) == (epochs if videos else [])
    for epoch in epochs:
        assert Counter(clip for batch in batches if batch.epoch == epoch for clip in clips(batch)) == once


@given(schedules())
def test_all_batches_are_of_one_size_and_none_is_only_filling(schedule: Schedule) -> None:
    for batch in schedule.batches():
        assert {len(batch.videos), len(batch.clips), len(batch.weights)} == {schedule.batch_size}
        assert set(batch.weights.tolist()) <= {0.0, 1.0}
        assert batch.weights.any()
        assert set(batch.videos.tolist()) <= set(
            (schedule.train_videos if batch.train else schedule.val_videos).tolist()
        )


@given(schedules())
def test_the_clips_of_a_video_stay_side_by_side(schedule: Schedule) -> None:
    """So that its file is read once, by one process."""
    for batch in schedule.batches():
        if batch.train:
            per_video = batch.videos.reshape(-1, schedule.clips_per_video)
            assert (per_video == per_video[:, :1]).all()


@given(schedules(), st.data())
def test_a_later_start_gives_what_is_left(schedule: Schedule, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, schedule.total_steps))
    everything = list(schedule.batches())
    first = next((i for i, b in enumerate(everything) if b.train and b.step == start), len(everything))
    assert written(schedule.batches(start)) == written(everything[first:])


@given(schedules())
def test_a_validation_comes_when_its_epoch_is_trained(schedule: Schedule) -> None:
    done = 0
    for batch in schedule.batches():
        assert batch.step == done
        done += batch.train
        if not batch.train:
            assert done == (batch.epoch + 1) * schedule.steps_per_epoch


def schedule_of(tiny: tuple[str, ...], lengths: dict[str, list[int]], *settings: str) -> Schedule:
    """Over videos of these numbers of frames."""
    rows = [
        {"video_id": f"{split}/{index}", "split": split, "num_frames": num_frames}
        for split, numbers in lengths.items()
        for index, num_frames in enumerate(numbers)
    ]
    return build_schedule(load(None, [*tiny, *settings]), pa.Table.from_pylist(rows, schema=SCHEMA))


def test_each_epoch_has_its_own_order_and_each_seed(tiny: tuple[str, ...]) -> None:
    def orders(seed: int) -> list[list[int]]:
        schedule = schedule_of(tiny, {"train": [30] * 40, "test": [30]}, f"seed={seed}", "train.epochs=3")
        videos = [batch.videos for batch in schedule.batches() if batch.train]
        return np.concatenate(videos).reshape(3, -1).tolist()

    first, second, third = orders(0)
    assert first != second != third != first
    assert orders(0) == [first, second, third]
    assert orders(1)[0] != first


@pytest.mark.parametrize(
    ("rates", "jitter", "least"),
    [("[1, 2, 4]", 0, 13), ("[1, 2, 4]", 0.2, 15), ("[1, 2]", 0.2, 8), ("[1, 2, 8]", 0.2, 30)],
)
def test_only_videos_that_hold_the_fastest_clip_are_validated_on(
    tiny: tuple[str, ...], rates: str, jitter: float, least: int
) -> None:
    """Four frames take 3 strides, of up to (1 + jitter) × the fastest rate each."""
    lengths = {"train": [5, 6, 7], "test": [least - 1, least, 1000, 1]}
    clip = f"data.clip={{num_frames: 4, frame_stride: 1, rates: {rates}, rate_jitter: {jitter}, clips_per_video: 2}}"
    schedule = schedule_of(tiny, lengths, clip)
    assert schedule.train_videos.tolist() == [0, 1, 2]
    assert schedule.val_videos.tolist() == [4, 5]
    assert schedule.num_short_val_videos == 2

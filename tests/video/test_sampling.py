from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from advise_ray.config import ClipConfig
from advise_ray.video.sampling import (
    fits_every_rate,
    keyed_rng,
    longest_span_frames,
    plan_clips,
    plan_val_clips,
    span_frames,
)

PINNED = [887, 368, 935, 917]
"""Draws of `keyed_rng(0, "order", 3)`: a run goes on, and can be compared, under another version."""

clip_configs = st.builds(
    ClipConfig,
    num_frames=st.integers(2, 16),
    frame_stride=st.integers(1, 6),
    clips_per_video=st.integers(1, 6),
    rates=st.lists(st.floats(1, 16), min_size=2, max_size=5, unique=True).map(lambda rates: tuple(sorted(rates))),
    rate_jitter=st.floats(0, 0.9),
    short_video=st.sampled_from(["fit", "wrap", "hold"]),
)
seeds = st.integers(0, 2**32)
quickly = settings(deadline=None)


def plan(num_source_frames: int, clip: ClipConfig, *key: int | str):
    return plan_clips(num_source_frames, clip, keyed_rng(*key))


def slowest_and_fastest_stride(clip: ClipConfig, rate_index: int) -> tuple[float, float]:
    stride = clip.frame_stride * clip.rates[rate_index]
    return max(1, stride * (1 - clip.rate_jitter)), max(1, stride * (1 + clip.rate_jitter))


@quickly
@given(st.integers(1, 400), clip_configs, seeds)
def test_every_clip_is_whole_and_within_its_video(num_source_frames, clip, seed):
    clips = plan(num_source_frames, clip, seed)
    assert len(clips) == clip.clips_per_video
    for drawn in clips:
        assert drawn.frame_indices.dtype == np.int64
        assert drawn.frame_indices.shape == (clip.num_frames,)
        assert 0 <= drawn.frame_indices.min() <= drawn.frame_indices.max() < num_source_frames
        assert 0 <= drawn.rate_index < len(clip.rates)
        if clip.short_video != "wrap":
            assert (np.diff(drawn.frame_indices) >= 0).all()


@quickly
@given(st.integers(1, 400), clip_configs, seeds)
def test_fit_draws_only_rates_that_fit(num_source_frames, clip, seed):
    clip = clip.model_copy(update={"short_video": "fit"})
    slow, _ = slowest_and_fastest_stride(clip, 0)
    for drawn in plan(num_source_frames, clip, seed):
        repeats = np.diff(drawn.frame_indices) == 0
        if not repeats.any():
            continue
        # None fits: the slowest rate from the first frame on, then the last frame held.
        assert num_source_frames < span_frames(clip.num_frames, slow * (1 + clip.rate_jitter) / (1 - clip.rate_jitter))
        assert drawn.rate_index == 0
        assert drawn.frame_indices[0] == 0
        assert (drawn.frame_indices[np.flatnonzero(repeats)] == num_source_frames - 1).all()


@quickly
@given(clip_configs, st.integers(0, 300), seeds)
def test_frames_lie_as_far_apart_as_the_rate_says(clip, spare_frames, seed):
    for drawn in plan(longest_span_frames(clip) + spare_frames, clip, seed):
        slowest, fastest = slowest_and_fastest_stride(clip, drawn.rate_index)
        steps = np.diff(drawn.frame_indices)
        assert steps.max() - steps.min() <= 1  # one stride, rounded
        span = drawn.frame_indices[-1] - drawn.frame_indices[0]
        assert slowest * (clip.num_frames - 1) - 0.5 <= span + 1e-9
        assert span <= fastest * (clip.num_frames - 1) + 0.5 + 1e-9


def test_without_jitter_the_frames_are_those_of_the_drawing():
    clip = ClipConfig(num_frames=4, frame_stride=1, clips_per_video=60, rates=(1, 2), rate_jitter=0)
    steps = {1: set(), 2: set()}
    for drawn in plan(12, clip, 0):
        steps[clip.rates[drawn.rate_index]].add(tuple(np.diff(drawn.frame_indices)))
    assert steps == {1: {(1, 1, 1)}, 2: {(2, 2, 2)}}


def test_a_clip_begins_anywhere_that_it_fits():
    clip = ClipConfig(num_frames=4, frame_stride=1, clips_per_video=400, rates=(1, 2), rate_jitter=0)
    starts = {(drawn.rate_index, int(drawn.frame_indices[0])) for drawn in plan(12, clip, 0)}
    assert starts == {(0, start) for start in range(9)} | {(1, start) for start in range(6)}


@pytest.mark.parametrize(
    ("short_video", "expected"),
    [("hold", {(0, 4, 5, 5)}), ("wrap", {(s, (s + 4) % 6, (s + 2) % 6, s) for s in range(6)})],
)
def test_a_clip_longer_than_its_video(short_video, expected):
    clip = ClipConfig(
        num_frames=4, frame_stride=1, clips_per_video=200, rates=(1, 4), rate_jitter=0, short_video=short_video
    )
    assert {tuple(drawn.frame_indices) for drawn in plan(6, clip, 0) if drawn.rate_index == 1} == expected


@quickly
@given(st.integers(1, 400), clip_configs, seeds)
def test_the_key_alone_decides(num_source_frames, clip, seed):
    first, again = (plan(num_source_frames, clip, seed, "train", 3, "video") for _ in range(2))
    assert [drawn.rate_index for drawn in first] == [drawn.rate_index for drawn in again]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.frame_indices, other.frame_indices)


def test_another_epoch_video_or_seed_gives_other_clips():
    clip = ClipConfig(clips_per_video=8)
    keys = [(0, 0, "a"), (0, 1, "a"), (0, 0, "b"), (1, 0, "a")]
    drawn = {tuple(tuple(one.frame_indices) for one in plan(300, clip, *key)) for key in keys}
    assert len(drawn) == len(keys)


def test_the_parts_of_a_key_do_not_run_together():
    assert keyed_rng(1, 23).integers(2**62) != keyed_rng(12, 3).integers(2**62)


def test_draws_are_the_same_in_another_process():
    draws = "keyed_rng(0, 'order', 3).integers(1000, size=4).tolist()"
    code = f"from advise_ray.video.sampling import keyed_rng; print({draws})"
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(printed.stdout) == keyed_rng(0, "order", 3).integers(1000, size=4).tolist() == PINNED


def test_rates_are_drawn_equally_often():
    clip = ClipConfig(clips_per_video=4000)
    counts = Counter(drawn.rate_index for drawn in plan(300, clip, 0))
    assert counts.keys() == {0, 1, 2, 3}
    assert all(900 < count < 1100 for count in counts.values())  # σ = 27


@quickly
@given(clip_configs, st.integers(0, 300), st.integers(1, 3), seeds)
def test_validation_sees_every_rate_equally_and_no_frame_twice(clip, spare_frames, clips_per_rate, seed):
    num_source_frames = longest_span_frames(clip) + spare_frames
    clips = plan_val_clips(num_source_frames, clip, clips_per_rate, keyed_rng(seed))
    assert [drawn.rate_index for drawn in clips] == [i for i in range(len(clip.rates)) for _ in range(clips_per_rate)]
    for drawn in clips:
        assert (np.diff(drawn.frame_indices) > 0).all()
        assert drawn.frame_indices[-1] < num_source_frames


@quickly
@given(clip_configs, seeds)
def test_a_video_as_long_as_the_longest_span_is_just_long_enough(clip, seed):
    """In a shorter one the fastest rate would repeat a frame, now and then."""
    clip = clip.model_copy(update={"rate_jitter": 0.0, "short_video": "hold"})
    longest = longest_span_frames(clip)
    assume(longest > clip.num_frames)
    fastest = plan_val_clips(longest - 1, clip, 1, keyed_rng(seed))[-1]
    assert fastest.frame_indices[-1] == longest - 2
    assert plan_val_clips(longest, clip, 1, keyed_rng(seed))[-1].frame_indices[-1] == longest - 1


def by_time(**settings) -> ClipConfig:
    return ClipConfig(num_frames=8, sample_fps=15, rates=(1, 2), rate_jitter=0, short_video="hold", **settings)


@pytest.mark.parametrize("fps", [15, 25, 29.97, 60, 120])
def test_files_of_any_frame_rate_play_at_the_same_speed(fps):
    for drawn in plan_clips(1000, by_time(clips_per_video=20), keyed_rng("fps", 0), fps):
        seconds = np.diff(drawn.frame_indices).mean() / fps
        assert seconds == pytest.approx((1 + drawn.rate_index) / 15, abs=1 / fps / 7)


def test_no_frame_is_shown_twice_and_what_is_too_slow_is_not_validated_on():
    for drawn in plan_clips(1000, by_time(clips_per_video=20), keyed_rng("slow", 0), 10):
        assert (np.diff(drawn.frame_indices) >= 1).all()
        assert drawn.rate_index == 1  # it cannot be shown at 15 frames/s
    assert [fits_every_rate(1000, by_time(), fps) for fps in (10, 14, 14.985, 60)] == [False, False, True, True]


@quickly
@given(st.floats(1, 120), st.floats(0.5, 60), st.integers(1, 2000))
def test_a_video_that_fits_every_rate_holds_every_validation_clip(fps, sample_fps, num_frames):
    clip = ClipConfig(num_frames=8, sample_fps=sample_fps, rates=(1, 3), rate_jitter=0.2)
    assume(fits_every_rate(num_frames, clip, fps))
    for drawn in plan_val_clips(num_frames, clip, 2, keyed_rng(num_frames), fps):
        assert len(set(drawn.frame_indices.tolist())) == 8
        assert drawn.frame_indices.max() < num_frames

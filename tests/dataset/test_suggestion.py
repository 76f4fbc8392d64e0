"""Suggested settings: valid for any footage, and right for footage that a person can reckon."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advise_ray.config import Config, load, overrides_of, recipes
from advise_ray.dataset.suggestion import BASES, MOST_VIDEOS, Choice, settings_of, suggest
from advise_ray.errors import UsageError
from advise_ray.training.batch_schedule import build_schedule
from advise_ray.video.manifest import SCHEMA
from advise_ray.video.sampling import fits_every_rate


def footage(*kinds: tuple[int, int, float, int, int]) -> pa.Table:
    """A manifest of `(number of videos, frames, frames/s, width, height)`; the videos have two classes in turn."""
    rows: list[dict[str, Any]] = []
    for count, frames, fps, width, height in kinds:
        for _ in range(count):
            name = f"{len(rows):03}.mp4"
            values = {"num_frames": frames, "fps": fps, "width": width, "height": height, "label": len(rows) % 2}
            rows.append(dict.fromkeys(SCHEMA.names) | {"video_id": name, "path": name} | values)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def configured(choices: list[Choice], task: str = "prp") -> Config:
    return load(recipes.find(BASES[task]), overrides_of(settings_of(choices, task)))


def fits(table: pa.Table, config: Config) -> list[bool]:
    rows = table.select(["num_frames", "fps"]).to_pylist()
    return [fits_every_rate(row["num_frames"], config.data.clip, row["fps"]) for row in rows]


videos = st.tuples(
    st.integers(1, 12),
    st.integers(1, 20_000),
    st.floats(0.5, 240).map(lambda fps: round(fps, 3)),
    st.integers(16, 8000),
    st.integers(16, 8000),
)


@given(st.lists(videos, min_size=1, max_size=5), st.sampled_from(["prp", "action"]), st.integers(1, 8), st.booleans())
def test_any_footage_gets_a_valid_recipe_whose_rates_fit_or_the_reason_why_not(
    kinds: list[tuple[int, int, float, int, int]], task: str, workers: int, use_gpu: bool
) -> None:
    table = footage(*kinds)
    longest = max(frames for _, frames, *_ in kinds)
    if task == "prp" and longest < 3:
        with pytest.raises(UsageError, match=f"the longest has {longest} frames"):
            suggest(table, task)
        return
    choices = suggest(table, task, most_workers=workers, use_gpu=use_gpu)
    config = configured(choices, task)
    schedule = build_schedule(config, table)
    assert len(schedule.train_videos)
    assert config.train.global_batch_size % (workers * config.data.clip.clips_per_video) == 0
    assert config.augment.crop_size_px <= max(64, *(max(width, height) for *_, width, height in kinds))
    share = float(np.mean(fits(table, config)))
    (rates,) = (choice for choice in choices if choice.name == "rates")
    if task == "prp":
        assert share > 0
        assert share >= MOST_VIDEOS or "no other choice fits more" in rates.reason
        assert (share == 1) == ("fit all videos" in rates.reason)


@pytest.mark.parametrize(
    ("kinds", "num_frames", "sample_fps", "rates", "clips"),
    [
        ([(40, 20, 10, 320, 240)], 8, 10, (1, 2), 4),  # 2 s: rate 2 takes 1.7 s, rate 4 would take 3.4 s
        ([(30, 300, 30, 640, 360)], 8, 15, (1, 2, 4, 8), 4),
        ([(6, 7500, 25, 320, 180)], 8, 15, (1, 2, 4, 8), 16),
        ([(20, 60, 30, 320, 240)], 8, 18, (1, 2, 4), 4),  # as pretrain_footage, which is for clips of 2 s
        ([(50, 20, 10, 320, 240), (50, 300, 30, 320, 240)], 8, 10, (1, 2), 4),
        ([(90, 300, 30, 320, 240), (10, 4, 30, 320, 240)], 8, 15, (1, 2, 4, 8), 4),
        ([(5, 9, 30, 320, 240)], 4, 30, (1, 2), 4),
    ],
    ids=["2 s at 10/s", "10 s at 30/s", "5 min at 25/s", "2 s at 30/s", "mixed", "a tenth is too short", "9 frames"],
)
def test_clips_suit_the_length_and_the_frame_rate(kinds, num_frames, sample_fps, rates, clips):
    clip = configured(suggest(footage(*kinds), "prp")).data.clip
    assert (clip.num_frames, clip.rates, clip.clips_per_video) == (num_frames, rates, clips)
    assert clip.sample_fps == pytest.approx(sample_fps)


def test_small_videos_are_not_enlarged_and_a_gpu_takes_more_pixels():
    sizes = [(footage((9, 99, 30, *size)), gpu) for size in ((176, 144), (1920, 1080)) for gpu in (False, True)]
    found = [configured(suggest(table, "prp", use_gpu=gpu)) for table, gpu in sizes]
    assert [config.augment.crop_size_px for config in found] == [128, 128, 160, 224]
    assert [config.model.sfu.spatial_size for config in found] == [4, 4, 5, 7]


def test_few_videos_fill_a_step_without_copies_and_many_need_fewer_epochs():
    few, many = (configured(suggest(footage((count, 99, 30, 320, 240)), "prp")) for count in (3, 4000))
    assert (few.train.global_batch_size, few.data.val_fraction, few.train.epochs) == (3 * 4, 0, 30)
    assert (many.train.global_batch_size, many.train.epochs) == (48, 4)


def test_a_recipe_for_labels_needs_no_pretrained_module():
    config = configured(suggest(footage((120, 60, 30, 320, 240)), "action"), "action")
    assert (config.task, config.model.init_from, config.data.val_split) == ("action", None, None)


def test_a_clip_shows_half_of_an_action_up_to_two_seconds() -> None:
    lengths = [15, 60, 120, 9000]
    clips = [configured(suggest(footage((9, n, 30, 320, 240)), "action"), "action").data.clip for n in lengths]
    assert [clip.sample_fps for clip in clips] == [15, 8, 4, 4]

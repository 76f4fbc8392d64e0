"""The clips that a reader returns for a share of a batch, called directly: real files, no Ray."""

from __future__ import annotations

import copy
import dataclasses
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from advise_ray.config import Config, flatten, load
from advise_ray.training.batch_schedule import Batch
from advise_ray.training.clip_reader import GREY, ClipReader
from advise_ray.video import augment_draws
from advise_ray.video.manifest import Video

NUM_FRAMES = 30
FRAME_STEP, VIDEO_STEP = 8, 40


def write_video(path: Path, index: int) -> Path:
    """The right half's grey level tells the frame, the left half's the video."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=Fraction(30), options={"g": "10", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for frame in range(NUM_FRAMES):
            image = np.full((120, 160, 3), FRAME_STEP * frame, dtype=np.uint8)
            image[:, :80] = VIDEO_STEP * index
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())
    return path


def flat(config: Config) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in flatten(config).items()]


def levels(frames: np.ndarray, step: int) -> list[Any]:
    left, right = frames[..., 20:60, :], frames[..., 100:140, :]
    half = right if step == FRAME_STEP else left
    return (half.mean((-3, -2, -1)) / step).round().astype(int).tolist()


@pytest.fixture(scope="module")
def config(tiny: tuple[str, ...]) -> Config:
    return load(None, tiny)


@pytest.fixture(scope="module")
def reader(config: Config, tmp_path_factory: pytest.TempPathFactory) -> ClipReader:
    """Videos 0 to 3 are whole, 4 is missing, 5 has lost its end."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [write_video(folder / f"{index}.mp4", index) for index in range(4)]
    paths += [folder / "missing.mp4", folder / "cut.mp4"]
    paths[5].write_bytes(paths[0].read_bytes()[:900])
    videos = [
        Video(path.stem, str(path), 7, NUM_FRAMES, 160, 120, 30.0, "pyav" if path.stem == "3" else "decord", 0, 0)
        for path in paths
    ]
    return ClipReader(config, videos)


def row(videos: list[int], clips: list[int], *, train: bool = True, epoch: int = 0, weights=None) -> Batch:
    weights = np.array(weights or [1.0] * len(videos), dtype=np.float32)
    return Batch(train, epoch, 7, np.array(videos), np.array(clips), weights)


def test_pixels_frames_and_targets_belong_together(reader: ClipReader, config: Config) -> None:
    videos, clips = [2, 2, 0, 0, 3, 3, 1, 1], [0, 1] * 4
    seen = set()
    for epoch in range(4):
        block = reader(row(videos, clips, epoch=epoch))
        assert (block.frames.shape, block.frames.dtype) == ((8, 4, 120, 160, 3), np.uint8)
        assert (block.draws.shape, block.draws.dtype) == ((8, 10), np.float32)
        assert levels(block.frames, FRAME_STEP) == block.frame_indices.tolist()
        assert levels(block.frames, VIDEO_STEP) == [[video] * 4 for video in videos]
        for indices, target in zip(block.frame_indices, block.targets, strict=True):
            stride = (indices[-1] - indices[0]) / 3
            assert config.data.clip.rates[target] == pytest.approx(stride, rel=0.35)  # ±20 % and whole frames
            seen.add(target)
        assert block.weights.tolist() == [1.0] * 8
        assert block.failures == {}
    assert seen == {0, 1, 2}


def test_a_clip_does_not_depend_on_the_row_it_is_in(reader: ClipReader) -> None:
    together = reader(row([0, 0, 1, 1, 2, 2], [0, 1] * 3))
    for videos, clips, place in [([1], [1], 0), ([1, 0, 4], [1, 0, 0], 0), ([2, 3, 1, 1], [0, 0, 0, 1], 3)]:
        alone = reader(row(videos, clips))
        for name in ("frames", "draws", "frame_indices", "targets"):
            np.testing.assert_array_equal(getattr(alone, name)[place], getattr(together, name)[3])


def test_every_clip_of_every_epoch_is_drawn_anew(reader: ClipReader) -> None:
    blocks = [reader(row([0, 0, 1, 1], [0, 1, 0, 1], epoch=epoch)) for epoch in range(3)]
    draws = np.concatenate([block.draws for block in blocks])
    assert len(np.unique(draws, axis=0)) == len(draws)
    assert len({str(block.frame_indices) for block in blocks}) == 3


def test_a_broken_video_shows_a_valid_one_and_counts_for_nothing(reader: ClipReader) -> None:
    whole = reader(row([0, 0, 2, 2], [0, 1, 0, 1]))
    block = reader(row([4, 4, 0, 0, 5, 5, 2, 2], [0, 1] * 4))
    assert block.weights.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    np.testing.assert_array_equal(block.frames[[2, 3, 6, 7]], whole.frames)
    assert levels(block.frames[[0, 1, 4, 5]], VIDEO_STEP) == [[0] * 4] * 4
    assert levels(block.frames[[0, 1, 4, 5]], FRAME_STEP) == [whole.frame_indices[0].tolist()] * 4
    assert list(block.failures) == ["missing", "cut"]
    assert block.failures["missing"] == "no such file"
    assert block.failures["cut"]
    assert block.planned.videos.tolist() == [4, 4, 0, 0, 5, 5, 2, 2]


def test_a_share_without_any_whole_video_is_grey(reader: ClipReader) -> None:
    block = reader(row([4, 4, 5, 5], [0, 1, 0, 1]))
    assert (block.frames == GREY).all()
    assert not block.weights.any()
    assert block.frames.shape == (4, 4, 120, 160, 3)


def test_what_only_fills_the_batch_stays_without_weight(reader: ClipReader) -> None:
    block = reader(row([1, 1, 1, 1], [0, 1, 0, 1], weights=[1, 1, 0, 0]))
    assert block.weights.tolist() == [1, 1, 0, 0]
    np.testing.assert_array_equal(block.frames[:2], block.frames[2:])


def test_validation_is_the_same_after_every_epoch(reader: ClipReader, config: Config) -> None:
    first, later = (reader(row([1, 1, 1, 2], [0, 1, 2, 0], train=False, epoch=epoch)) for epoch in (0, 9))
    for name in ("frames", "draws", "frame_indices", "targets"):
        np.testing.assert_array_equal(getattr(first, name), getattr(later, name))
    np.testing.assert_array_equal(first.draws, np.tile(augment_draws.centre_crop(config.augment), (4, 1)))
    assert first.targets.tolist() == [0, 1, 2, 0]  # every rate of every video
    assert levels(first.frames, FRAME_STEP) == first.frame_indices.tolist()


@pytest.mark.parametrize("train", [True, False])
def test_frames_that_belong_to_no_label_are_never_shown(reader: ClipReader, train: bool) -> None:
    reader = copy.copy(reader)
    reader.videos = [dataclasses.replace(video, start_frame=10, end_frame=22) for video in reader.videos]
    block = reader(row([0, 0, 1, 1], [0, 1, 0, 1], train=train))
    indices = block.frame_indices
    assert (indices.min() >= 10, indices.max() < 22) == (True, True)
    assert levels(block.frames, FRAME_STEP) == indices.tolist()


@pytest.mark.parametrize("train", [True, False])
def test_an_action_is_shown_as_it_was_filmed_and_named_by_its_label(
    reader: ClipReader, config: Config, train: bool
) -> None:
    reader = copy.copy(reader)
    reader.config = load(None, [*flat(config), "task=action", "data.clip.frame_stride=2", "data.val_clips_per_rate=2"])
    block = reader(row([0, 0, 1, 1], [0, 1, 0, 1], train=train))
    assert block.targets.tolist() == [7, 7, 7, 7]
    assert (np.diff(block.frame_indices) == 2).all()
    assert len(np.unique(block.frame_indices[:, 0])) > 1

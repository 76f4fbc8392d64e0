"""Augmentation on tensors, against torchvision's own operators on the same draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from advise_ray.config import AugmentConfig, load
from advise_ray.model.augment import apply, apply_to_frames
from advise_ray.model.rand_augment import OPERATIONS
from advise_ray.video.augment_draws import draw
from advise_ray.video.sampling import keyed_rng

pytestmark = pytest.mark.usefixtures("one_thread")
NUM_CLIPS, NUM_FRAMES, HEIGHT, WIDTH, CROP = 3, 4, 40, 52, 24
CENTRE = np.asarray([8, 14, CROP, CROP, 0, 1, 1, 1, 0, 0], dtype=np.float32)
CHANGED = np.asarray([3, 20, 30, 22, 1, 1.15, 0.85, 1.1, 0.05, 0, 0.4, 0.5], dtype=np.float32)
"""A draw in which everything happens but grey."""


class Bytes:
    """An image model that takes pixels as they are."""

    interpolation, input_dtype, normalise = "bilinear", torch.uint8, staticmethod(torch.Tensor.byte)


@pytest.fixture
def clips() -> torch.Tensor:
    """uint8[B, T, H, W, 3], every pixel another."""
    shape = (NUM_CLIPS, NUM_FRAMES, HEIGHT, WIDTH, 3)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def applied(clips: torch.Tensor, *draws: np.ndarray) -> torch.Tensor:
    out = apply(clips, np.stack(draws), CROP, Bytes())
    assert out.shape == (len(clips), NUM_FRAMES, CROP, CROP, 3)
    assert out.dtype == torch.uint8
    return out


def drawn(**changes: float) -> np.ndarray:
    names = ["top", "left", "height", "width", "flip", "brightness", "contrast", "saturation", "hue", "grey"]
    row = CENTRE.copy()
    for name, value in changes.items():
        row[names.index(name)] = value
    return row


def test_the_centre_unchanged(clips: torch.Tensor) -> None:
    assert torch.equal(applied(clips, *[CENTRE] * NUM_CLIPS), clips[:, :, 8:32, 14:38])


def test_the_crop_reaches_every_corner(clips: torch.Tensor) -> None:
    near, far = drawn(top=0, left=0), drawn(top=HEIGHT - CROP, left=WIDTH - CROP)
    out = applied(clips[:2], near, far)
    assert torch.equal(out[0], clips[0, :, :CROP, :CROP])
    assert torch.equal(out[1], clips[1, :, -CROP:, -CROP:])


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for rounding: at most one grey level, and that in few values."""
    difference = (found.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.005


def torchvision(clip: torch.Tensor, draw: np.ndarray, size_px: int) -> torch.Tensor:
    """One clip, one operator of torchvision after the other: uint8[T, H, W, 3]."""
    top, left, height, width, flip, brightness, contrast, saturation, hue, grey = draw[:10].tolist()
    images = clip.movedim(-1, -3).contiguous()
    images = tv.resized_crop(images, int(top), int(left), int(height), int(width), [size_px, size_px])
    images = tv.horizontal_flip(images) if flip else images
    for which, level in draw[10:].reshape(-1, 2).tolist():
        images = OPERATIONS[min(int(which * len(OPERATIONS)), len(OPERATIONS) - 1)](images, level)
    images = tv.adjust_contrast(tv.adjust_brightness(images, brightness), contrast)
    images = tv.adjust_hue(tv.adjust_saturation(images, saturation), hue)
    return (tv.rgb_to_grayscale(images, 3) if grey else images).movedim(-3, -1)


COLOURS = {"brightness": 1.15, "contrast": 0.85, "saturation": 1.1, "hue": 0.05}
JITTERED = {name: float(np.float32(value)) for name, value in COLOURS.items()}  # as a draw holds them


def jitter(images: torch.Tensor) -> torch.Tensor:
    images = tv.adjust_contrast(tv.adjust_brightness(images, JITTERED["brightness"]), JITTERED["contrast"])
    return tv.adjust_hue(tv.adjust_saturation(images, JITTERED["saturation"]), JITTERED["hue"])


@pytest.mark.parametrize(
    ("draw", "transform"),
    [
        (drawn(flip=1), lambda images: tv.horizontal_flip(tv.crop(images, 8, 14, CROP, CROP))),
        (drawn(grey=1), lambda images: tv.rgb_to_grayscale(tv.crop(images, 8, 14, CROP, CROP), 3)),
        (
            drawn(top=3, left=5, height=30, width=22),
            lambda images: tv.resized_crop(images, 3, 5, 30, 22, [CROP, CROP]),
        ),
        (drawn(**JITTERED), lambda images: jitter(tv.crop(images, 8, 14, CROP, CROP))),
    ],
    ids=["flip", "grey", "resized crop", "colours"],
)
def test_it_is_what_torchvision_does(clips: torch.Tensor, draw: np.ndarray, transform) -> None:
    expected = transform(clips[1].movedim(-1, -3).contiguous()).movedim(-3, -1)
    assert_equal(applied(clips[1:2], draw)[0], expected)


@pytest.mark.parametrize("level", [0.3, -0.3, 1.0, -1.0])
@pytest.mark.parametrize(("number", "name"), list(enumerate(v2.RandAugment._AUGMENTATION_SPACE)))
def test_rand_augment_is_torchvisions(clips: torch.Tensor, number: int, name: str, level: float) -> None:
    """Its own transforms of the same strength, which only its class can apply by name."""
    assert len(OPERATIONS) == len(v2.RandAugment._AUGMENTATION_SPACE)
    strengths, signed = v2.RandAugment._AUGMENTATION_SPACE[name]
    values = strengths(31, CROP, CROP)
    strength = 0.0 if values is None else float(values[round(abs(level) * 30)]) * (-1 if signed and level < 0 else 1)
    images = clips[0, :, :CROP, :CROP].movedim(-1, -3)
    bilinear = v2.InterpolationMode.BILINEAR
    expected = v2.RandAugment()._apply_image_or_video_transform(images, name, strength, bilinear, {torch.Tensor: None})
    operation = [(number + 0.5) / len(OPERATIONS), level]
    out = applied(clips[:1], np.asarray([*drawn(top=0, left=0), *operation], dtype=np.float32))
    assert (out[0].int() - expected.movedim(-3, -1).int()).abs().max() <= 1


@pytest.mark.parametrize("which", np.linspace(0, 1, 2 * len(OPERATIONS) + 1).tolist())
def test_one_draw_holds_for_all_frames_of_a_clip(clips: torch.Tensor, which: float) -> None:
    """Else the augmentation itself would move, and tell the playback rate wrongly."""
    still = clips[:1, :1].expand(1, NUM_FRAMES, HEIGHT, WIDTH, 3)
    draw = CHANGED.copy()
    draw[-2] = which
    out = applied(still, draw)
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert not torch.equal(out, applied(still, CENTRE))


def test_every_clip_of_a_batch_gets_its_own_draw(clips: torch.Tensor) -> None:
    rows = [CHANGED, np.pad(CENTRE, (0, 2)), np.pad(drawn(flip=1, grey=1), (0, 2))]
    together = applied(clips, *rows)
    for index, row in enumerate(rows):
        assert torch.equal(together[index], applied(clips[index : index + 1], row)[0])


def test_a_gpu_takes_frames_of_all_clips_together(clips: torch.Tensor) -> None:
    draws = np.stack([CHANGED, np.pad(CENTRE, (0, 2)), np.pad(drawn(flip=1, grey=1, saturation=1.1), (0, 2))])
    together = apply_to_frames(clips.flatten(0, 1), np.repeat(draws, NUM_FRAMES, axis=0), CROP, Bytes())
    assert_equal(together, apply(clips, draws, CROP, Bytes()).flatten(0, 1))


def test_what_comes_in_is_left_as_it_is(clips: torch.Tensor) -> None:
    before = clips.clone()
    applied(clips, *[CHANGED] * NUM_CLIPS)
    assert torch.equal(clips, before)


def test_colours_change_as_the_factors_say(clips: torch.Tensor) -> None:
    grey = torch.full_like(clips[:1], 100)
    assert (applied(grey, drawn(brightness=1.2)) == 120).all()
    red = torch.zeros_like(grey)
    red[..., 0] = 200
    assert applied(red, drawn(hue=1 / 3))[0, 0, 0, 0].tolist() == [0, 200, 0]


CHAINS = {
    str(size): size
    for path in sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))
    for size in [load(path).augment]
}
"""The different augmentations of the shipped recipes."""


@pytest.mark.parametrize("augment", CHAINS.values(), ids=range(len(CHAINS)))
def test_the_chains_of_the_recipes_are_those_of_torchvision(augment: AugmentConfig) -> None:
    """On pictures with surfaces and edges, as in videos: a value that one operator rounds differently stays close."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(256, (4, 2, 3, 8, 10), dtype=torch.uint8, generator=generator)
    size = (augment.resize_height_px, augment.resize_width_px)
    clips = tv.resize(coarse, size, antialias=False).movedim(-3, -1).contiguous()
    draws = np.stack([draw(augment, keyed_rng("chain", number)) for number in range(4)])
    found = apply(clips, draws, augment.crop_size_px, Bytes())
    for clip, row, ours in zip(clips, draws, found, strict=True):
        difference = (ours.int() - torchvision(clip, row, augment.crop_size_px).int()).abs()
        assert difference.max() <= 2
        assert (difference > 1).float().mean() < 1e-4
        assert (difference > 0).float().mean() < 0.01


@pytest.mark.parametrize("size_px", [7, 16])
def test_clips_of_any_number_and_length(size_px: int) -> None:
    for num_clips, num_frames in [(1, 1), (1, 5), (3, 1)]:
        shape = (num_clips, num_frames, 19, 23, 3)
        clips = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
        draws = np.stack(
            [
                draw(
                    AugmentConfig(resize_height_px=19, resize_width_px=23, crop_size_px=size_px),
                    keyed_rng("any", number),
                )
                for number in range(num_clips)
            ]
        )
        found = apply(clips, draws, size_px, Bytes())
        assert found.shape == (num_clips, num_frames, size_px, size_px, 3)
        for clip, row, ours in zip(clips, draws, found, strict=True):
            difference = (ours.int() - torchvision(clip, row, size_px).int()).abs()
            assert difference.max() <= 2

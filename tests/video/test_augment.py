from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advise_ray.config import AugmentConfig
from advise_ray.model.augment import apply
from advise_ray.video.augment import CENTRE_CROP, draw
from advise_ray.video.sampling import keyed_rng

NUM_CLIPS, NUM_FRAMES, HEIGHT, WIDTH, CROP = 3, 4, 20, 26, 12
CHANGED = np.asarray([0.2, 0.9, 1, 1.15, 0.85, 1.1, 0.05], dtype=np.float32)
"""A draw in which everything happens."""

augments = st.builds(
    AugmentConfig,
    random_crop=st.booleans(),
    flip=st.booleans(),
    colour_jitter=st.floats(0, 1),
    brightness=st.floats(0, 1),
    contrast=st.floats(0, 1),
    saturation=st.floats(0, 1),
    hue=st.floats(0, 0.5),
)


@pytest.fixture
def clips() -> torch.Tensor:
    """uint8[B, T, H, W, 3], every pixel another."""
    shape = (NUM_CLIPS, NUM_FRAMES, HEIGHT, WIDTH, 3)
    return torch.from_numpy(keyed_rng("clips").integers(256, size=shape, dtype=np.uint8))


def applied(clips: torch.Tensor, *draws: np.ndarray) -> torch.Tensor:
    out = apply(clips, np.stack(draws), CROP)
    assert out.shape == (len(clips), NUM_FRAMES, CROP, CROP, 3)
    assert out.dtype == torch.uint8
    return out


def draws(augment: AugmentConfig, number: int) -> np.ndarray:
    return np.stack([draw(augment, keyed_rng(index)) for index in range(number)])


def test_validation_sees_the_centre_unchanged(clips):
    out = applied(clips, *[CENTRE_CROP] * NUM_CLIPS)
    assert torch.equal(out, clips[:, :, 4:16, 7:19])


def test_the_crop_reaches_every_corner(clips):
    near, far = (CENTRE_CROP.copy() for _ in range(2))
    near[:2], far[:2] = 0, 1
    out = applied(clips[:2], near, far)
    assert torch.equal(out[0], clips[0, :, :CROP, :CROP])
    assert torch.equal(out[1], clips[1, :, -CROP:, -CROP:])


def test_a_flip_mirrors_left_to_right(clips):
    mirrored = CENTRE_CROP.copy()
    mirrored[2] = 1
    straight, flipped = applied(clips[:1], CENTRE_CROP), applied(clips[:1], mirrored)
    assert torch.equal(flipped, straight.flip(3))


@pytest.mark.parametrize("number", range(4))
def test_one_draw_holds_for_all_frames_of_a_clip(clips, number):
    """Else the augmentation itself would move, and tell the playback rate wrongly."""
    still = clips[:1, :1].expand(1, NUM_FRAMES, HEIGHT, WIDTH, 3)
    drawn = draw(AugmentConfig(colour_jitter=1), keyed_rng(number))
    out = applied(still, drawn)
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert not torch.equal(out, applied(still, CENTRE_CROP))


def test_every_clip_of_a_batch_gets_its_own_draw(clips):
    rows = [CHANGED, CENTRE_CROP, draw(AugmentConfig(), keyed_rng(1))]
    together = applied(clips, *rows)
    for index, row in enumerate(rows):
        assert torch.equal(together[index], applied(clips[index : index + 1], row)[0])


def test_what_comes_in_is_left_as_it_is(clips):
    before = clips.clone()
    applied(clips, *[CHANGED] * NUM_CLIPS)
    assert torch.equal(clips, before)


def test_colours_change_as_the_factors_say(clips):
    grey = torch.full_like(clips[:1], 100)
    brighter, turned = CENTRE_CROP.copy(), CENTRE_CROP.copy()
    brighter[3], turned[6] = 1.2, 1 / 3
    assert (applied(grey, brighter) == 120).all()
    red = torch.zeros_like(grey)
    red[..., 0] = 200
    assert applied(red, turned)[0, 0, 0, 0].tolist() == [0, 200, 0]


def test_switched_off_it_is_the_centre_crop():
    augment = AugmentConfig(random_crop=False, flip=False, colour_jitter=0)
    assert (draws(augment, 50) == CENTRE_CROP).all()


def test_how_often_and_how_evenly():
    drawn = draws(AugmentConfig(colour_jitter=0.3), 2000)
    assert drawn[:, :2].mean(0) == pytest.approx([0.5, 0.5], abs=0.03)
    assert drawn[:, 2].mean() == pytest.approx(0.5, abs=0.04)
    assert (drawn[:, 3:] != CENTRE_CROP[3:]).any(1).mean() == pytest.approx(0.3, abs=0.04)
    assert drawn[:, 3:].mean(0) == pytest.approx([1, 1, 1, 0], abs=0.02)


@settings(deadline=None)
@given(augments, st.integers(0, 2**32))
def test_draws_stay_within_their_ranges(augment, seed):
    drawn = draw(augment, keyed_rng(seed))
    assert drawn.shape == CENTRE_CROP.shape
    assert drawn.dtype == np.float32
    top, left, flip, *colours = drawn.tolist()
    assert 0 <= top <= 1
    assert 0 <= left <= 1
    assert flip in ((0, 1) if augment.flip else (0,))
    strengths = [augment.brightness, augment.contrast, augment.saturation, augment.hue]
    for colour, usual, strength in zip(colours, [1, 1, 1, 0], strengths, strict=True):
        assert abs(colour - usual) <= strength + 1e-6


@settings(deadline=None)
@given(augments, st.integers(0, 2**32))
def test_the_key_alone_decides(augment, seed):
    np.testing.assert_array_equal(draw(augment, keyed_rng(seed, "clip")), draw(augment, keyed_rng(seed, "clip")))


def test_another_key_gives_another_draw():
    assert len(np.unique(draws(AugmentConfig(), 20), axis=0)) == 20

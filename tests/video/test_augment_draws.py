from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advise_ray.config import AugmentConfig
from advise_ray.video.augment_draws import centre_crop, draw, view_crops
from advise_ray.video.sampling import keyed_rng

BOX, FLIP, COLOURS, GREY, OPERATIONS = slice(0, 4), 4, slice(5, 9), 9, slice(10, None)
UNCHANGED = [1, 1, 1, 0]


@st.composite
def augments(draw) -> AugmentConfig:
    random_crop = draw(st.booleans())
    scales = st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: tuple(sorted(pair)))
    height_px, width_px = draw(st.integers(8, 400)), draw(st.integers(8, 400))
    return AugmentConfig(
        resize_height_px=height_px,
        resize_width_px=width_px,
        crop_size_px=draw(st.integers(1, min(height_px, width_px))),
        random_crop=random_crop,
        crop_scale=draw(st.none() | scales) if random_crop else None,
        flip=draw(st.booleans()),
        colour_jitter=draw(st.floats(0, 1)),
        brightness=draw(st.floats(0, 1)),
        hue=draw(st.floats(0, 0.5)),
        grey=draw(st.floats(0, 1)),
        rand_augment_ops=draw(st.integers(0, 3)),
        rand_augment_magnitude=draw(st.integers(0, 30)),
    )


def draws(augment: AugmentConfig, number: int) -> np.ndarray:
    return np.stack([draw(augment, keyed_rng(index)) for index in range(number)])


def test_switched_off_it_is_the_centre_crop() -> None:
    augment = AugmentConfig(random_crop=False, flip=False, colour_jitter=0)
    assert (draws(augment, 50) == centre_crop(augment)).all()
    assert centre_crop(augment)[BOX].tolist() == [16, 48, 224, 224]


def test_how_often_and_how_evenly() -> None:
    drawn = draws(AugmentConfig(colour_jitter=0.3, grey=0.2, rand_augment_ops=2, rand_augment_magnitude=15), 2000)
    assert drawn[:, :2].mean(0) == pytest.approx([16, 48], abs=1.5)
    assert drawn[:, FLIP].mean() == pytest.approx(0.5, abs=0.04)
    assert (drawn[:, COLOURS] != UNCHANGED).any(1).mean() == pytest.approx(0.3, abs=0.04)
    assert drawn[:, COLOURS].mean(0) == pytest.approx(UNCHANGED, abs=0.02)
    assert drawn[:, GREY].mean() == pytest.approx(0.2, abs=0.04)
    which, level = drawn[:, OPERATIONS][:, ::2], drawn[:, OPERATIONS][:, 1::2]
    assert which.mean(0) == pytest.approx([0.5, 0.5], abs=0.04)
    assert (np.abs(level) == 0.5).all()
    assert level.mean(0) == pytest.approx([0, 0], abs=0.04)


def test_a_resized_crop_takes_its_share_of_the_frame() -> None:
    height, width = draws(AugmentConfig(crop_scale=(0.2, 0.5)), 2000)[:, 2:4].T
    share = height * width / (256 * 320)
    assert 0.19 < share.min() < 0.22
    assert 0.48 < share.max() < 0.51
    assert share.mean() == pytest.approx(0.35, abs=0.02)
    assert 0.74 < (width / height).min() < 0.8
    assert 1.25 < (width / height).max() < 1.35


@settings(deadline=None)
@given(augments(), st.integers(0, 2**32))
def test_draws_stay_within_their_ranges(augment: AugmentConfig, seed: int) -> None:
    drawn = draw(augment, keyed_rng(seed))
    assert drawn.shape == centre_crop(augment).shape
    assert drawn.dtype == np.float32
    top, left, height, width = drawn[BOX].tolist()
    assert 0 <= top <= top + height <= augment.resize_height_px
    assert 0 <= left <= left + width <= augment.resize_width_px
    assert min(height, width) >= 1
    assert drawn[FLIP] in ((0, 1) if augment.flip else (0,))
    strengths = [augment.brightness, augment.contrast, augment.saturation, augment.hue]
    assert (np.abs(drawn[COLOURS] - UNCHANGED) <= np.asarray(strengths) + 1e-6).all()
    assert drawn[GREY] in (0, 1)
    assert ((drawn[OPERATIONS] >= -1) & (drawn[OPERATIONS] <= 1)).all()


@settings(deadline=None)
@given(augments(), st.integers(0, 2**32))
def test_the_key_alone_decides(augment: AugmentConfig, seed: int) -> None:
    np.testing.assert_array_equal(draw(augment, keyed_rng(seed, "clip")), draw(augment, keyed_rng(seed, "clip")))


def test_another_key_gives_another_draw() -> None:
    assert len(np.unique(draws(AugmentConfig(), 20), axis=0)) == 20


@pytest.mark.parametrize(
    ("height_px", "width_px", "num_crops", "crops"),
    [
        (120, 160, 1, [(12, 32)]),
        (120, 160, 3, [(12, 0), (12, 32), (12, 64)]),
        (160, 120, 3, [(0, 12), (32, 12), (64, 12)]),
        (96, 96, 2, [(0, 0), (0, 0)]),
    ],
)
def test_crops_that_are_tested_on_lie_along_the_longer_side(
    height_px: int, width_px: int, num_crops: int, crops: list[tuple[int, int]]
) -> None:
    augment = AugmentConfig(resize_height_px=height_px, resize_width_px=width_px, crop_size_px=96)
    assert view_crops(augment, num_crops) == crops

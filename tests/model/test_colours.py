"""Colour operators on many frames, each against torchvision's on uint8."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from advise_ray.model import colours

pytestmark = pytest.mark.usefixtures("one_thread")
BLENDS = {
    "brightness": (tv.adjust_brightness, colours.brightness_),
    "contrast": (tv.adjust_contrast, colours.contrast_),
    "saturation": (tv.adjust_saturation, colours.saturation_),
}


@pytest.fixture
def frames() -> torch.Tensor:
    """uint8[4, 37, 53, 3]: noise, few colours, grey only, and black, white and noise in one frame."""
    frames = torch.randint(256, (4, 37, 53, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frames[1] = frames[1] // 100 * 100
    frames[2] = frames[2, ..., :1]
    frames[3, :10], frames[3, 10:20] = 0, 255
    return frames


def check(frames: torch.Tensor, factors: list[float], expected: Callable, changed: Callable) -> None:
    """Compare each frame alone, whose values are equal, and all frames together, each with a factor of its own."""
    by = torch.tensor(factors)
    together = colours.split_channels(frames.float())
    changed(together, by.view(-1, 1, 1))
    for frame, pixels, factor in zip(frames, together, by.tolist(), strict=True):
        alone = colours.split_channels(frame[None].float())
        changed(alone, factor)
        of_torchvision = expected(frame.movedim(-1, 0), factor).flatten(1)
        assert torch.equal(alone[0], of_torchvision.float())
        difference = (pixels - of_torchvision).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.005


@pytest.mark.parametrize("factors", [[0.0, 1.0, 0.5, 0.83], [1.2, 0.8, 1.1, 1.17], [3.0, 0.1, 2.0, 1.0]], ids=str)
@pytest.mark.parametrize("name", BLENDS)
def test_a_factor(frames: torch.Tensor, name: str, factors: list[float]) -> None:
    expected, changed = BLENDS[name]
    check(frames, factors, expected, lambda pixels, by: changed(pixels, by, over=max(factors) > 1))


@pytest.mark.parametrize(
    "factors", [[-0.5, 0.5, 0.0, 0.25], [0.1, -0.1, 0.03, 1 / 3], [0.0, -1 / 3, 0.5, 0.07]], ids=str
)
def test_hue(frames: torch.Tensor, factors: list[float]) -> None:
    check(frames, factors, tv.adjust_hue, colours.hue_)
    check(frames.flip(0), factors, tv.adjust_hue, colours.hue_)


def test_grey(frames: torch.Tensor) -> None:
    check(
        frames,
        [0.0] * 4,
        lambda frame, _: tv.rgb_to_grayscale(frame, 3),
        lambda pixels, by: colours.saturation_(pixels, by, over=False),
    )


def test_nothing_changes_without_a_change(frames: torch.Tensor) -> None:
    """So a batch may contain clips that keep their colours."""
    pixels = colours.split_channels(frames.float())
    one = torch.ones(4, 1, 1)
    colours.brightness_(pixels, one, over=False)
    colours.contrast_(pixels, one, over=False)
    colours.saturation_(pixels, one, over=False)
    colours.hue_(pixels, 0 * one)
    assert torch.equal(colours.join_channels(pixels).view(frames.shape).byte(), frames)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 3, 5, 3), (5, 64, 48, 3)], ids=str)
def test_channels_are_split_and_joined(shape: tuple[int, ...]) -> None:
    pixels = torch.rand(shape)
    planes = colours.split_channels(pixels)
    assert planes.is_contiguous()
    assert torch.equal(planes, pixels.movedim(-1, 1).flatten(2))
    assert torch.equal(colours.join_channels(planes).view(shape), pixels)

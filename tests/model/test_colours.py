"""Colour operators on many frames, each against torchvision's on uint8."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from advise_ray.model import colours

pytestmark = pytest.mark.usefixtures("one_thread")
BLENDS = {
    "brightness": (tv.adjust_brightness, lambda pixels, by, _, over: colours.brightness_(pixels, by, over=over)),
    "contrast": (tv.adjust_contrast, lambda pixels, by, memory, over: colours.contrast_(pixels, by, memory, over=over)),
    "saturation": (
        tv.adjust_saturation,
        lambda pixels, by, memory, over: colours.saturation_(pixels, by, memory, over=over),
    ),
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
    """Compare frames that all have factors of their own. Only few values may differ, and by one."""
    by = torch.tensor(factors)
    pixels = frames.flatten(-2).float()
    changed(pixels, by.view(-1, 1, 1), torch.empty_like(pixels))
    each = [expected(frame.movedim(-1, 0), factor) for frame, factor in zip(frames, by.tolist(), strict=True)]
    difference = (pixels.view(frames.shape) - torch.stack(each).movedim(1, -1)).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.005


@pytest.mark.parametrize("factors", [[0.0, 1.0, 0.5, 0.83], [1.2, 0.8, 1.1, 1.17], [3.0, 0.1, 2.0, 1.0]], ids=str)
@pytest.mark.parametrize("name", BLENDS)
def test_a_factor(frames: torch.Tensor, name: str, factors: list[float]) -> None:
    expected, changed = BLENDS[name]
    check(frames, factors, expected, lambda *args: changed(*args, max(factors) > 1))


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
        lambda *args: colours.saturation_(*args, over=False),
    )


def test_nothing_changes_without_a_change(frames: torch.Tensor) -> None:
    """So a batch may contain clips that keep their colours."""
    pixels = frames.flatten(-2).float()
    one, memory = torch.ones(4, 1, 1), torch.empty_like(pixels)
    colours.brightness_(pixels, one, over=False)
    colours.contrast_(pixels, one, memory, over=False)
    colours.saturation_(pixels, one, memory, over=False)
    colours.hue_(pixels, 0 * one, memory)
    assert torch.equal(pixels.view(frames.shape).byte(), frames)

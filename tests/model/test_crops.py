"""Crops of each frame's own box, against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from advise_ray.model.crops import crop, resize_by_matrices

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE_PX = 24
BOXES = np.asarray([[0, 0, 40, 52], [3, 20, 30, 22], [39, 51, 1, 1], [8, 14, 24, 24], [0, 0, 40, 7], [5, 1, 25, 24]])


@pytest.fixture
def frames() -> torch.Tensor:
    shape = (len(BOXES), 40, 52, 3)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def expected(frames: torch.Tensor, mode: str) -> torch.Tensor:
    each = zip(frames.movedim(-1, 1), BOXES.tolist(), strict=True)
    return torch.stack([tv.resized_crop(frame, *box, [SIZE_PX] * 2, mode).movedim(0, -1) for frame, box in each])


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_a_box_is_resized_as_by_torchvision(frames: torch.Tensor, mode: str) -> None:
    assert torch.equal(crop(frames, BOXES, SIZE_PX, mode), expected(frames, mode))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_matrices_resize_as_torchvision(frames: torch.Tensor, mode: str) -> None:
    """They are for GPUs, on which torchvision resizes in float32."""
    found = resize_by_matrices(frames, BOXES, SIZE_PX, mode)
    assert found.dtype == torch.uint8
    exact = expected(frames.float(), mode).clamp(0, 255)
    assert (found - exact).abs().max() < 0.501


def test_the_crop_reaches_every_corner(frames: torch.Tensor) -> None:
    boxes = np.asarray([[0, 0, 9, 9], [31, 43, 9, 9], [0, 43, 9, 9]])
    found = crop(frames[:3], boxes, 9, "bilinear")
    assert torch.equal(found[0], frames[0, :9, :9])
    assert torch.equal(found[1], frames[1, -9:, -9:])
    assert torch.equal(found[2], frames[2, :9, -9:])

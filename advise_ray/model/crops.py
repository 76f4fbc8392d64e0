"""Cuts boxes out of the frames of a batch and resizes them, each frame with its own box."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as tv

from advise_ray.model.transfer import to_device

CUBIC_SHARPNESS = -0.5
"""The parameter a of torch's bicubic interpolation with antialiasing, as in PIL."""


def crop(frames: torch.Tensor, boxes: NDArray[np.int64], size_px: int, interpolation: str) -> torch.Tensor:
    """Cut a box out of each frame and resize it to a square.

    Args:
        frames: uint8[N, H, W, 3].
        boxes: top, left, height and width of each box in pixels, int64[N, 4], or of one box for all, int64[1, 4].

    Returns:
        uint8[N, size_px, size_px, 3], as torchvision's `resized_crop`. It can be a view of the frames.
    """
    if len(boxes) == 1:
        return _resized(frames, boxes[0], size_px, interpolation)
    if (boxes[:, 2:] == size_px).all():
        return _cut(frames.contiguous(), boxes, size_px)
    if frames.device.type != "cpu" and interpolation in ("bilinear", "bicubic"):
        return resize_by_matrices(frames, boxes, size_px, interpolation)
    each = zip(frames.split(1), boxes, strict=True)
    return torch.cat([_resized(frame, box, size_px, interpolation) for frame, box in each])


def _resized(frames: torch.Tensor, box: NDArray[np.int64], size_px: int, interpolation: str) -> torch.Tensor:
    top, left, height, width = box.tolist()
    images = frames[:, top : top + height, left : left + width]
    if (height, width) == (size_px, size_px):
        return images
    return tv.resize(images.movedim(-1, 1), [size_px, size_px], interpolation, antialias=True).movedim(1, -1)


def _cut(frames: torch.Tensor, boxes: NDArray[np.int64], size_px: int) -> torch.Tensor:
    """Copy each row of each box, as one gather over all bytes."""
    _, height, width, _ = frames.shape
    firsts = ((np.arange(len(frames)) * height + boxes[:, 0]) * width + boxes[:, 1]) * 3
    rows = to_device(firsts, frames.device)[:, None] + torch.arange(size_px, device=frames.device) * (width * 3)
    row_bytes = size_px * 3
    every_row = frames.view(-1).as_strided((frames.numel() - row_bytes + 1, row_bytes), (1, 1))
    return every_row.index_select(0, rows.view(-1)).view(len(frames), size_px, size_px, 3)


def resize_by_matrices(
    frames: torch.Tensor, boxes: NDArray[np.int64], size_px: int, interpolation: str
) -> torch.Tensor:
    """Crop and resize by two products of matrices for all frames, without a loop. Arguments as in `crop`.

    As torchvision on a GPU, it rounds only the result; on a CPU torchvision rounds between the two directions too.
    """
    num, height, width, _ = frames.shape
    tops, lefts, heights, widths = to_device(boxes.T.astype(np.float32), frames.device)
    vertical = _weights(tops, heights, height, size_px, interpolation)
    horizontal = _weights(lefts, widths, width, size_px, interpolation)
    rows = vertical @ frames.view(num, height, width * 3).float()
    rows = rows.view(num, size_px, width, 3).movedim(-1, 1).reshape(num, 3 * size_px, width)
    images = (rows @ horizontal.mT).clamp_(0, 255).round_().to(torch.uint8)
    return images.view(num, 3, size_px, size_px).movedim(1, -1).contiguous()


def _weights(
    starts: torch.Tensor, lengths: torch.Tensor, num_pixels: int, size_px: int, interpolation: str
) -> torch.Tensor:
    """Return how much each pixel of a line counts for each resized pixel, float32[N, size_px, num_pixels].

    The filters are those of torch's interpolation with antialiasing.
    """
    reach = {"bilinear": 1, "bicubic": 2}[interpolation]
    starts, lengths = starts.view(-1, 1, 1), lengths.view(-1, 1, 1)
    places = torch.arange(num_pixels, device=starts.device) - starts
    scale = lengths / size_px
    centres = scale * (torch.arange(size_px, device=starts.device).view(-1, 1) + 0.5)
    distance = ((places + 0.5 - centres) / scale.clamp(min=1)).abs().clamp_(max=reach)
    if interpolation == "bilinear":
        weights = 1 - distance
    else:
        a = CUBIC_SHARPNESS
        near = ((a + 2) * distance - (a + 3)) * distance.square() + 1
        far = (((distance - 5) * distance + 8) * distance - 4) * a
        weights = torch.where(distance < 1, near, far)
    weights = weights * ((places >= 0) & (places < lengths))
    return weights / weights.sum(-1, keepdim=True)

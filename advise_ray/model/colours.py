"""Changes the colours of many frames at once, in place. Each operator equals torchvision's on uint8 images.

Pixels are planes, float32[N, 3, P] with whole numbers from 0 to 255: all red values of a frame, then green, then blue.
A factor is one number for all frames, or float32[N, 1, 1]. `over` says whether any factor exceeds 1, because only then
can a result leave the range. torchvision rounds the result of each operator down, and so do these. With one number, on
a CPU, values equal torchvision's, because the arithmetic has the same order. Otherwise single values differ by one.
"""

from __future__ import annotations

import torch

Factor = float | torch.Tensor
RED, GREEN, BLUE = 0.2989, 0.587, 0.114
"""Weights of the channels in a grey value, as torchvision has them."""
OPPOSITE_OR_OWN = (2.5, 1.5, 3.5)
"""The sixths of the colour circle, from red over green, around which red is lowest, and green and blue are highest."""
NONZERO = 1e-3


def split_channels(pixels: torch.Tensor) -> torch.Tensor:
    """Copy pixels float32[N, H, W, 3], contiguous, to planes float32[N, 3, P]."""
    return _transpose(pixels, pixels[0].numel() // 3).view(len(pixels), 3, -1)


def join_channels(pixels: torch.Tensor) -> torch.Tensor:
    """Copy planes float32[N, 3, P] to float32[N, P, 3]."""
    return _transpose(pixels, 3).view(len(pixels), -1, 3)


def _transpose(values: torch.Tensor, rows: int) -> torch.Tensor:
    """Transpose the values of each frame, as a matrix with this number of rows: float32[N, …] → float32[N, values].

    On a CPU a channel shuffle takes half the time of a strided copy, because it transposes with vector instructions.
    """
    lanes = values.view(1, len(values), 1, -1).movedim(-1, 1)
    return torch.channel_shuffle(lanes, rows).movedim(1, -1).flatten(0, 2)


def brightness_(pixels: torch.Tensor, factor: Factor, *, over: bool) -> None:
    """Multiply pixels by a factor, as `adjust_brightness`."""
    pixels.mul_(factor)
    _whole_(pixels, clamps=over)


def contrast_(pixels: torch.Tensor, factor: Factor, *, over: bool) -> None:
    """Mix frames with the mean of their grey values, as `adjust_contrast`."""
    _mix_(pixels, _grey(pixels).mean(-1, keepdim=True), factor, over=over)


def saturation_(pixels: torch.Tensor, factor: Factor, *, over: bool) -> None:
    """Mix pixels with their grey values, as `adjust_saturation`. Factor 0 makes frames grey, as `rgb_to_grayscale`."""
    _mix_(pixels, _grey(pixels), factor, over=over)


def hue_(pixels: torch.Tensor, turn: Factor) -> None:
    """Rotate hues by `turn` circles (-0.5 to 0.5), as `adjust_hue`.

    The arithmetic is that of torchvision in the same order, so that no value is rounded differently. `lerp` by 0 or 1
    selects, because `where` takes many times as long on a CPU. Differences of channels are 0 or at least 1 / 255.
    """
    red, green, blue = planes = pixels.mul_(1 / 255).split(1, dim=1)
    value = torch.maximum(red, green).maximum(blue)
    spread = value - torch.minimum(red, green).minimum(blue)
    saturation = spread / value.clamp(min=NONZERO)
    from_red, from_green, from_blue = torch.sub(value, pixels, out=pixels).div_(spread.clamp_(min=NONZERO)).split(1, 1)
    not_red, not_green = ((plane / NONZERO).clamp_(max=1) for plane in (from_red, from_green))
    hue = (from_red + 2).sub_(from_blue).lerp_((from_green + 4).sub_(from_red), not_green)
    hue = from_blue.sub_(from_green).lerp(hue, not_red).mul_(1 / 6).add_(1)
    hue.frac_().add_(turn)
    hue.sub_(hue.floor()).mul_(6)
    sixth = hue.floor()
    part = hue.sub_(sixth).mul_(saturation)
    low = saturation.neg_().add_(1)
    odd = (sixth * 0.5).frac_().mul_(2)
    middle = (part + low).lerp_(1 - part, odd).mul_(value)
    low.mul_(value)
    # In each sixth, one channel has the value, one the low and one the middle. A large number selects one of the first
    # two, and 0 selects the middle.
    for place, sign, plane in zip(OPPOSITE_OR_OWN, (1, -1, -1), planes, strict=True):
        torch.sub(sixth, place, out=plane).abs_().sub_(1.5).mul_(4 * sign).add_(middle).clamp_(low, value)
    pixels.mul_(255.999).floor_()


def _grey(pixels: torch.Tensor) -> torch.Tensor:
    """Compute floor(grey value) of each pixel, float32[N, 1, P]."""
    red, green, blue = pixels.split(1, dim=1)
    return (red * RED).add_(green, alpha=GREEN).add_(blue, alpha=BLUE).floor_()


def _mix_(pixels: torch.Tensor, others: torch.Tensor, factor: Factor, *, over: bool) -> None:
    """Compute pixels × factor + others × (1 - factor); others are float32[N, 1, P] or float32[N, 1, 1]."""
    pixels.mul_(factor)
    if isinstance(factor, float):
        pixels.add_(others, alpha=1 - factor)
    else:
        pixels.addcmul_(others, 1 - factor)
    _whole_(pixels, clamps=over)


def _whole_(pixels: torch.Tensor, *, clamps: bool) -> None:
    if clamps:
        pixels.clamp_(0, 255)
    pixels.floor_()

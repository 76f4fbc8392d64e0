"""Changes the colours of many frames at once, in place. Each operator equals torchvision's on uint8 images.

Pixels are float32[N, H, W × 3] with whole numbers from 0 to 255: the three channels of a pixel are neighbours, so that
the operators run over long contiguous rows. Factors are float32[N, 1, 1], one for each frame. `over` says whether any
factor exceeds 1, because only then can a result leave the range. `scratch` is memory of the shape of the pixels: on a
CPU, new memory for each operator would not be in the caches. torchvision rounds the result of each operator down, and
so do these. Single values differ from torchvision's by one, where another order of additions rounds differently.
"""

from __future__ import annotations

import torch

RED, GREEN, BLUE = 0.2989, 0.587, 0.114
"""Weights of the channels in a grey value, as torchvision has them."""
OPPOSITE_OR_OWN = (2.5, 1.5, 3.5)
"""The sixths of the colour circle, from red over green, around which red is lowest, and green and blue are highest."""
NONZERO = 1e-3


def brightness_(pixels: torch.Tensor, factor: torch.Tensor, *, over: bool) -> None:
    """Multiply pixels by a factor, as `adjust_brightness`."""
    pixels.mul_(factor)
    _whole_(pixels, clamps=over)


def contrast_(pixels: torch.Tensor, factor: torch.Tensor, scratch: torch.Tensor, *, over: bool) -> None:
    """Mix frames with the mean of their grey values, as `adjust_contrast`."""
    frames, height, width = pixels.shape
    sums = (_grey(pixels, scratch).view(-1, width) @ _firsts(pixels)).view(frames, height).sum(1)
    means = sums.view(-1, 1, 1) / (height * (width // 3))
    pixels.mul_(factor).add_((1 - factor) * means)
    _whole_(pixels, clamps=over)


def saturation_(pixels: torch.Tensor, factor: torch.Tensor, scratch: torch.Tensor, *, over: bool) -> None:
    """Mix pixels with their grey values, as `adjust_saturation`. Factor 0 makes frames grey, as `rgb_to_grayscale`."""
    # Grey values stand at the first channel of each pixel and are 0 elsewhere. Added three times, each time moved by
    # one, they reach every channel.
    grey = _grey(pixels, scratch).mul_(_firsts(pixels)).flatten(1)
    flat, rest = pixels.mul_(factor).flatten(1), (1 - factor).flatten(1)
    flat.addcmul_(grey, rest)
    flat[:, 1:].addcmul_(grey[:, :-1], rest)
    flat[:, 2:].addcmul_(grey[:, :-2], rest)
    _whole_(pixels, clamps=over)


def hue_(pixels: torch.Tensor, turn: torch.Tensor, scratch: torch.Tensor) -> None:
    """Rotate hues by `turn` circles (-0.5 to 0.5), as `adjust_hue`.

    The arithmetic is that of torchvision in the same order, so that no value is rounded differently. `lerp` by 0 or 1
    selects, because `where` takes many times as long on a CPU. Differences of channels are 0 or at least 1 / 255.
    """
    frames = len(pixels)
    interleaved = pixels.view(frames, -1, 3).movedim(-1, 0)
    red, green, blue = planes = torch.mul(interleaved, 1 / 255, out=scratch.view(3, frames, -1))
    value = torch.maximum(red, green).maximum(blue)
    spread = value - torch.minimum(red, green).minimum(blue)
    saturation = spread / value.clamp(min=NONZERO)
    from_red, from_green, from_blue = torch.sub(value, planes, out=planes).div_(spread.clamp_(min=NONZERO))
    not_red, not_green = ((plane / NONZERO).clamp_(max=1) for plane in (from_red, from_green))
    hue = (from_red + 2).sub_(from_blue).lerp_((from_green + 4).sub_(from_red), not_green)
    hue = from_blue.sub_(from_green).lerp(hue, not_red).mul_(1 / 6).add_(1)
    hue.frac_().add_(turn.view(-1, 1))
    hue.sub_(hue.floor()).mul_(6)
    sixth = hue.floor()
    part = hue.sub_(sixth).mul_(saturation)
    low = saturation.neg_().add_(1)
    odd = (sixth * 0.5).frac_().mul_(2)
    middle = (part + low).lerp_(1 - part, odd).mul_(value)
    low.mul_(value)
    # In each sixth, one channel has the value, one the low and one the middle. A large number selects one of the first
    # two, and 0 selects the middle.
    for place, sign, plane, channel in zip(OPPOSITE_OR_OWN, (1, -1, -1), planes, interleaved, strict=True):
        torch.sub(sixth, place, out=plane).abs_().sub_(1.5).mul_(4 * sign).add_(middle)
        plane.clamp_(low, value).mul_(255.999)
        torch.floor(plane, out=channel)


def _grey(pixels: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write floor(grey value) at the first channel of each pixel, float32[N, H, W × 3]; other values are unused."""
    torch.mul(pixels, RED, out=out)
    flat = pixels.view(-1)
    out.view(-1)[:-2].add_(flat[1:-1], alpha=GREEN).add_(flat[2:], alpha=BLUE)
    return out.floor_()


def _firsts(pixels: torch.Tensor) -> torch.Tensor:
    """Return 1 for the first channel of each pixel of a row and 0 for the others, float32[W × 3]."""
    firsts = pixels.new_zeros(pixels.shape[-1])
    firsts[::3].fill_(1)
    return firsts


def _whole_(pixels: torch.Tensor, *, clamps: bool) -> None:
    if clamps:
        pixels.clamp_(0, 255)
    pixels.floor_()

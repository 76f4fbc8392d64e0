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
HUE_CENTRES = (0.0, 2.0, -2.0)
"""Hues of pure red, green and blue, in sixths of the colour circle."""
TO_UINT8 = 255.999 / 255
"""torchvision converts a float v to floor(255.999 × v), with v from 0 to 1."""


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

    In HSV, a channel depends only on the distance d of the hue from the hue of this channel, in sixths of the circle.
    It is max - (max - min) × clamp(d - 1, 0, 1). All distances below are multiplied by max - min, so that nothing is
    divided and grey pixels need no special case.
    """
    frames = len(pixels)
    interleaved = pixels.view(frames, -1, 3).movedim(-1, 0)
    red, green, blue = planes = torch.mul(interleaved, TO_UINT8, out=scratch.view(3, frames, -1))
    most = torch.maximum(red, green).maximum(blue)
    least = torch.minimum(red, green).minimum(blue)
    spread = most - least
    from_red = (green + blue).sub_(red).add_(most).sub_(least, alpha=2).copysign_(green - blue)
    opposite = 3 * spread
    most_less = most.sub(spread, alpha=2)
    for plane, centre, channel in zip(planes, HUE_CENTRES, interleaved, strict=True):
        moved = torch.remainder(6 * turn.view(-1, 1) - centre + 3, 6) - 3
        # |from_red + moved| is up to 6: beyond 3, the shorter way is the other one. So the next line gives 3 - d.
        near = torch.addcmul(from_red, spread, moved, out=plane).abs_().sub_(opposite).abs_()
        near.add_(most_less).clamp_(least, most)
        torch.floor(near, out=channel)


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

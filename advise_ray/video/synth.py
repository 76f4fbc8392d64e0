"""Synthesizes small labelled videos of eight kinds of motion, which single frames cannot tell apart.

Three textured discs move over a textured background. Textures, sizes, positions and the speed have the same random
distribution in all classes. Therefore neither a frame nor the speed tells the class, only the path does.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from advise_ray.video.layouts import LAYOUTS, Placed
from advise_ray.video.sampling import keyed_rng

WIDTH_PX, HEIGHT_PX, FPS, DURATION_S = 320, 240, 30, 4
NUM_FRAMES = FPS * DURATION_S
RADIUS_PX = 45
"""Radius of the circles, and half the length of the swings, in pixels."""
TEST_GROUPS = {2, 5, 8}
"""Numbers of the test videos among ten videos of a class. The first number is low, so that small sets have some too."""

Path2D = Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]


def _swing(way: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the position of a movement back and forth over 2 × RADIUS_PX at constant speed."""
    return np.abs((way + RADIUS_PX) % (4 * RADIUS_PX) - 2 * RADIUS_PX) - RADIUS_PX


MOTIONS: dict[str, Path2D] = {
    "right": lambda way: (way, 0 * way),
    "left": lambda way: (-way, 0 * way),
    "down": lambda way: (0 * way, way),
    "up": lambda way: (0 * way, -way),
    "clockwise": lambda way: (RADIUS_PX * np.cos(way / RADIUS_PX), RADIUS_PX * np.sin(way / RADIUS_PX)),
    "counterclockwise": lambda way: (RADIUS_PX * np.cos(way / RADIUS_PX), -RADIUS_PX * np.sin(way / RADIUS_PX)),
    "sideways": lambda way: (_swing(way), 0 * way),
    "upanddown": lambda way: (0 * way, _swing(way)),
}
"""Maps each class to a function from the distance moved to the position (x, y), all in pixels. Discs that leave the
frame come in again on the other side."""


def synthesize(
    out_dir: Path,
    num_videos: int,
    seed: int,
    layout: str = "folder",
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write `num_videos` H.264 files (320×240, 30 fps, 4 s) with alternating classes, and the lists of the layout.

    Each video depends only on the seed and its number. Three of ten videos of each class are test videos.

    Args:
        layout: A name in `LAYOUTS`; it determines the paths of the videos and the lists.
    """
    names, to = list(MOTIONS), LAYOUTS[layout]
    placed = []
    for number in range(num_videos):
        label, group = number % len(names), number // len(names)
        split = "test" if group % 10 in TEST_GROUPS else "train"
        placed.append(Placed(to.path(names[label], group, number), label, names[label], split))
        path = out_dir / to.videos / placed[-1].path
        _write_video(path, MOTIONS[names[label]], keyed_rng(seed, number))
        on_progress(number + 1, num_videos)
    for name, text in to.texts(placed, names).items():
        path = out_dir / to.lists / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, newline="", encoding="utf-8")


def _write_video(path: Path, motion: Path2D, rng: np.random.Generator) -> None:
    """Write a video atomically. Equal random numbers give equal bytes; x264 needs one thread and no `mbtree` for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with av.open(str(partial), "w", format="mp4") as container:
        options = {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(FPS), options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for image in _frames(motion, rng):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    partial.replace(path)


def _frames(motion: Path2D, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the frames of a video, uint8[NUM_FRAMES, H, W, 3]."""
    frames = np.tile(_texture(rng, HEIGHT_PX, WIDTH_PX), (NUM_FRAMES, 1, 1, 1))
    speed_px = rng.uniform(70, 100) / FPS
    for _ in range(3):
        diameter = int(rng.integers(48, 72))
        disc = _texture(rng, diameter, diameter)
        offsets = np.arange(diameter) - (diameter - 1) / 2
        inside = np.hypot(offsets[:, None], offsets) < diameter / 2
        start = rng.uniform(0, 10_000)  # somewhere on the path
        x, y = motion(start + speed_px * np.arange(NUM_FRAMES, dtype=np.float64))
        rows = (y + rng.uniform(0, HEIGHT_PX)).round().astype(int)[:, None] + np.arange(diameter)
        columns = (x + rng.uniform(0, WIDTH_PX)).round().astype(int)[:, None] + np.arange(diameter)
        for frame, row, column in zip(frames, rows % HEIGHT_PX, columns % WIDTH_PX, strict=True):
            window = np.ix_(row, column)
            frame[window] = np.where(inside[..., None], disc, frame[window])
    return frames


def _texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Draw random blocks of 8 px around a random colour, uint8[height, width, 3]."""
    colour = rng.uniform(60, 196, size=3)
    blocks = rng.uniform(-50, 50, size=(-(-height // 8), -(-width // 8), 1)) + colour
    return blocks.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)

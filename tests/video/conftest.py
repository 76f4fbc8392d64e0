"""Small videos with known content."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from advise_ray.video import synth

NUM_FRAMES = 30
LEVEL_STEP = 8
"""Frame i is grey of level 8 i: more than coding moves it by."""

WriteVideo = Callable[..., Path]


@pytest.fixture
def empty_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthesized videos are empty files: where lists and places count, two seconds are saved."""

    def touch(path: Path, *_: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    monkeypatch.setattr(synth, "_write_video", touch)


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    """Write grey H.264 frames of 320×240 that grow lighter, keyframes 10 apart, the left half darker by 4 levels."""

    def write(name: str = "video.mp4", codec: str = "libx264", num_frames: int = NUM_FRAMES, **container: str) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", options=container) as output:
            stream = output.add_stream(codec, rate=Fraction(30), options={"g": "10", "bf": "2", "threads": "1"})
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for index in range(num_frames):
                image = np.full((240, 320, 3), LEVEL_STEP * index, dtype=np.uint8)
                image[:, :160] = max(LEVEL_STEP * index - 4, 0)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            output.mux(stream.encode())
        return path

    return write


@pytest.fixture
def video(write_video: WriteVideo) -> Path:
    return write_video()


@pytest.fixture
def quarter_turned(write_video: WriteVideo) -> Path:
    """As a phone held upright writes it: the coded picture lies on its side, the track has a matrix that turns it."""
    path = write_video("turned.mp4")
    data = bytearray(path.read_bytes())
    matrix = data.find(b"tkhd") + 44
    clockwise = [0, 1 << 16, 0, -1 << 16, 0, 0, 240 << 16, 0, 1 << 30]
    data[matrix : matrix + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in clockwise)
    path.write_bytes(data)
    return path


@pytest.fixture
def shown() -> Callable[[np.ndarray], list[int]]:
    """Which frames of a written video uint8[T, H, W, 3] are, by the level of their right half."""
    return lambda frames: (frames[:, :, frames.shape[2] * 3 // 4 :].mean((1, 2, 3)) / LEVEL_STEP).round().tolist()

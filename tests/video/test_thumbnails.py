"""Small pictures of real videos at given seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advise_ray.errors import VideoDecodeError
from advise_ray.video.decode import decode
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.synth import synthesize
from advise_ray.video.thumbnails import thumbnails


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("film")
    synthesize(root, 1, seed=0)
    return next(root.rglob("*.mp4"))


def test_a_picture_is_the_frame_that_is_shown_at_its_time(film: Path) -> None:
    fps, wanted = 30, np.asarray([0, 7, 8, 45, 100])
    from_times = thumbnails(film, wanted / fps, 120, 160)
    frames = decode(film, wanted, height_px=120, width_px=160, decoder="pyav").astype(int)
    assert np.abs(from_times - frames).mean((1, 2, 3)).max() < 2
    late = thumbnails(film, np.asarray([1000.0]), 60, 80)
    assert late.shape == (1, 60, 80, 3)


def test_odd_files_give_pictures_or_a_reason(shared_data: Path) -> None:
    folder = shared_data / "robustness" / "torchcodec"
    with DecodeProcess(60) as decoder:
        for name in ("nasa_13013_rotated.mp4", "test_non_zero_start.mp4", "animated.gif", "testsrc2_mpeg4.avi"):
            size = {"height_px": 60, "width_px": 80}
            pictures = decoder.thumbnails(str(folder / name), np.asarray([0.0, 0.5, 90.0]), name=name, **size)
            assert pictures.shape == (3, 60, 80, 3)
            assert pictures.std() > 0
        with pytest.raises(VideoDecodeError, match="no video stream"):
            decoder.thumbnails(str(folder / "sine_mono_s16.wav"), np.asarray([0.0]), name="sound", **size)

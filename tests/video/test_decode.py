from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from advise_ray.errors import VideoDecodeError
from advise_ray.video.decode import decode
from advise_ray.video.probe import probe

NUM_FRAMES = 30
DECODERS = ["decord", "pyav"]


def read(source, indices, decoder="decord", height_px=120, width_px=160, **options):
    return decode(source, np.asarray(indices), height_px=height_px, width_px=width_px, decoder=decoder, **options)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("indices", [[0, 1, 2, 3], [29], [23, 4, 4, 11, 29, 0, 23], list(range(29, -1, -1))])
def test_gives_the_frames_asked_for_in_the_order_asked(video, shown, decoder, indices):
    frames = read(video, indices, decoder)
    assert frames.shape == (len(indices), 120, 160, 3)
    assert frames.dtype == np.uint8
    assert shown(frames) == indices


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.flv"])
def test_a_frame_alone_is_the_frame_among_all(write_video, shown, name):
    """Also where PyAV jumps to a keyframe, and in containers without trusty times."""
    path = write_video(name)
    every = read(path, np.arange(NUM_FRAMES), "pyav")
    assert shown(every) == list(range(NUM_FRAMES))
    for index in range(NUM_FRAMES):
        np.testing.assert_array_equal(read(path, [index], "pyav")[0], every[index])


@pytest.mark.parametrize("decoder", DECODERS)
def test_bytes_are_read_like_the_file(video, decoder):
    np.testing.assert_array_equal(read(video.read_bytes(), [3, 17], decoder), read(video, [3, 17], decoder))


@pytest.mark.parametrize("size", [(120, 160), (224, 224), (240, 320), (90, 120), (96, 96), (113, 171)])
def test_the_decoders_agree_at_any_size(video, size):
    height_px, width_px = size
    pictures = [read(video, [5, 25], decoder, height_px, width_px).astype(int) for decoder in DECODERS]
    assert pictures[0].shape == (2, *size, 3)
    assert np.abs(pictures[0] - pictures[1]).mean() < 1


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(240, 180), (171, 113), (201, 171)])
def test_pictures_come_upright(quarter_turned, decoder, size):
    info = probe(quarter_turned)
    assert (info.width, info.height, info.rotation_deg, info.decoder) == (240, 320, 270, "decord")
    frame = read(quarter_turned, [20], decoder, *size, rotation_deg=info.rotation_deg)[0].astype(int)
    assert frame.shape == (*size, 3)
    top, bottom = frame[: size[0] // 3].mean(), frame[-size[0] // 3 :].mean()
    assert 2 < bottom - top < 6  # the darker half was on the left


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no such file"), (b"", "empty file"), (b"<html>404</html>" * 99, r"cannot open|not a video")],
)
def test_what_is_no_video_is_an_error_that_names_it(tmp_path, decoder, content, reason):
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoDecodeError, match=reason) as error:
        read(path, [0], decoder, name="dance/clip")
    assert error.value.video == "dance/clip"
    assert "\n" not in error.value.reason
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_frame_behind_the_end_is_an_error(video: Path, decoder: str):
    with pytest.raises(VideoDecodeError):
        read(video, [0, NUM_FRAMES], decoder)

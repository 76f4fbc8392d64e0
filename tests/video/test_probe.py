from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from advise_ray.errors import VideoDecodeError
from advise_ray.video.decode import decode
from advise_ray.video.probe import probe

NUM_FRAMES = 30

OUTCOMES = """
torchvision/basketball.mp4: 333 decord
clip-video-encode/vid1.mp4: 56 pyav
clip-video-encode/vid2.mp4: 134 pyav
cosmos-curate/test_clip_10s.mp4: 240 decord
decord/corrupted.mp4: damaged: 48 of 50 frames decode
decord/unordered.mov: 4 decord
decord/video_0.mov: 3 decord
decord/video_180.mov: 3 decord 180
decord/video_270.mov: 3 decord 90
decord/video_90.mov: 3 decord 270
mmaction2/demo_skeleton.mp4: 72 decord
mmaction2/rawvideo_part_0.mp4: 32 decord
mmaction2/test.mp4: 300 decord
mmaction2/test_video_structuralize.mp4: 300 decord
torchcodec/animated.gif: 4 decord
torchcodec/av1_video.mkv: 125 decord
torchcodec/bt2020_10bit.mp4: 60 pyav
torchcodec/bt601_full_range.mp4: 60 pyav
torchcodec/bt601_limited_range.mp4: 60 pyav
torchcodec/bt709_full_range.mp4: 30 decord
torchcodec/discard_first_keyframe.mp4: 25 pyav
torchcodec/frame_exceeds_screen.gif: 1 decord
torchcodec/gradient.gif: 1 decord
torchcodec/h264_10bits.mp4: 30 pyav
torchcodec/h265_10bits.mp4: 30 pyav
torchcodec/h265_video.mp4: 10 pyav
torchcodec/nasa_13013.mp4: 325 pyav
torchcodec/nasa_13013.mp4.audio.mp3: no video stream
torchcodec/nasa_13013.mp4.audio_44100.mp3: no video stream
torchcodec/nasa_13013_hdr.mp4: 325 decord
torchcodec/nasa_13013_rotated.mp4: 17 decord 90
torchcodec/reproduce_seek_bug.wav: no video stream
torchcodec/sine_16ch_s16.wav: no video stream
torchcodec/sine_mono_f32.wav: no video stream
torchcodec/sine_mono_f64.wav: no video stream
torchcodec/sine_mono_s16.wav: no video stream
torchcodec/sine_mono_s24.wav: no video stream
torchcodec/sine_mono_s32.wav: no video stream
torchcodec/sine_mono_s32_44100.wav: no video stream
torchcodec/sine_mono_s32_8000.wav: no video stream
torchcodec/sine_mono_u8.wav: no video stream
torchcodec/sine_stereo_mp2.mpg: 100 pyav
torchcodec/test_non_zero_start.mp4: 12 pyav
torchcodec/testsrc2.mp4: 60 decord
torchcodec/testsrc2_12bit_hdr.mp4: 60 pyav
torchcodec/testsrc2_444_10bit_hevc.mp4: 25 decord
torchcodec/testsrc2_444_12bit_hevc.mp4: 25 decord
torchcodec/testsrc2_444_8bit_hevc.mp4: 25 decord
torchcodec/testsrc2_av1_10bit.mp4: 25 decord
torchcodec/testsrc2_h265.mp4: 60 decord
torchcodec/testsrc2_hdr.mp4: 60 pyav
torchcodec/testsrc2_mpeg4.avi: 30 decord
torchcodec/testsrc2_mpeg4.mp4: 1 decord
torchcodec/testsrc2_odd_height_444.mp4: 25 decord
torchcodec/testsrc2_odd_height_and_width_444.mp4: 25 decord
torchcodec/testsrc2_odd_height_and_width_444_10bit.mp4: 25 decord
torchcodec/testsrc2_odd_height_and_width_mpeg2.mp4: 10 pyav
torchcodec/testsrc2_odd_height_and_width_vp9.mp4: 25 decord
torchcodec/testsrc2_odd_height_and_width_vp9_10bit.mp4: 25 decord
torchcodec/testsrc2_odd_height_vp9.mp4: 25 decord
torchcodec/testsrc2_odd_height_vp9_10bit.mp4: 25 decord
torchcodec/testsrc2_odd_width_444.mp4: 25 decord
torchcodec/testsrc2_odd_width_mpeg2.mp4: 10 pyav
torchcodec/testsrc2_odd_width_vp9.mp4: 25 decord
torchcodec/testsrc2_odd_width_vp9_10bit.mp4: 25 decord
torchcodec/testsrc2_vp8.webm: 30 decord
torchcodec/testsrc2_vp9.webm: 30 decord
torchcodec/transparent.gif: 1 decord
"""
"""Of each odd file: the frames it has, the decoder that reads it truly and its turn, or why it is refused."""


def test_tells_what_a_file_holds(video):
    info = probe(video)
    assert (info.num_frames, info.width, info.height, info.fps, info.duration_s) == (NUM_FRAMES, 320, 240, 30, 1)
    assert (info.codec, info.bytes, info.decoder) == ("h264", video.stat().st_size, "decord")
    assert (info.stream_index, info.rotation_deg) == (0, 0)
    assert probe(video.read_bytes()) == info


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.flv"])
@pytest.mark.parametrize("part", [0.5, 0.8])
def test_a_file_that_breaks_off_is_refused(write_video, name, part):
    whole = write_video(name, movflags="faststart").read_bytes()
    with pytest.raises(VideoDecodeError, match=r"truncated|damaged|empty|incomplete"):
        probe(whole[: int(len(whole) * part)])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_file_that_breaks_off_between_two_frames_is_refused(write_video, name):
    """Nothing fails to decode then; only the container knows that there was more."""
    path = write_video(name, movflags="faststart")
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    with pytest.raises(VideoDecodeError, match=r"truncated: 1[45]"):
        probe(path.read_bytes()[: sorted(ends)[NUM_FRAMES // 2 - 1]])


def test_a_damaged_file_is_refused_with_the_count_of_what_decodes(write_video):
    data = bytearray(write_video(movflags="faststart").read_bytes())
    with av.open(str(write_video("again.mp4", movflags="faststart"))) as container:
        keyframe = [packet for packet in container.demux(video=0) if packet.is_keyframe][1]
    data[keyframe.pos + 8 : keyframe.pos + keyframe.size] = bytes(keyframe.size - 8)
    with pytest.raises(VideoDecodeError, match=r"damaged: \d+ of 30 frames decode"):
        probe(bytes(data))


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty file"), (b"hello " * 500, "not a video file"), (None, "no such file")]
)
def test_what_is_no_video_is_refused_with_its_reason(tmp_path, content, reason):
    path = tmp_path / "x.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoDecodeError, match=reason) as error:
        probe(path, "x")
    assert error.value.video == "x"
    with pytest.raises(VideoDecodeError, match="Is a directory"):
        probe(tmp_path)


def test_decord_is_not_trusted_where_it_seeks_wrongly(write_video):
    assert probe(write_video("a.mpg", "mpeg2video")).decoder == "pyav"


@pytest.mark.parametrize("row", OUTCOMES.strip().splitlines())
def test_outcome_of_each_odd_file(shared_data, row):
    """And what is decoded is what PyAV shows of the first video stream, upright."""
    name, outcome = row.split(": ", 1)
    path = shared_data / "robustness" / name
    if not outcome[0].isdigit():
        with pytest.raises(VideoDecodeError) as error:
            probe(path)
        assert error.value.reason == outcome
        return
    info = probe(path)
    assert [str(info.num_frames), info.decoder, str(info.rotation_deg)] == (outcome + " 0").split()[:3]
    places = np.asarray([info.num_frames - 1, info.num_frames // 2, 0, info.num_frames // 2])
    truth, num_frames = pyav_shows(path, set(places.tolist()), 160, 224)
    assert info.num_frames == num_frames
    frames = decode(
        path,
        places,
        height_px=160,
        width_px=224,
        decoder=info.decoder,
        stream_index=info.stream_index,
        rotation_deg=info.rotation_deg,
    )
    for frame, place in zip(frames.astype(int), places, strict=True):
        assert np.abs(frame - truth[place]).mean() < 1


def pyav_shows(path: Path, places: set[int], height: int, width: int) -> tuple[dict[int, np.ndarray], int]:
    shown, count = {}, 0
    with av.open(str(path)) as container:
        for count, frame in enumerate(container.decode(video=0), 1):
            if count - 1 in places:
                size = (height, width) if frame.rotation % 180 else (width, height)
                own = {"width": size[0], "height": size[1], "interpolation": "BICUBIC", "threads": 1}
                image = frame.to_ndarray(format="rgb24", **own)
                shown[count - 1] = np.rot90(image, frame.rotation // 90)
    return shown, count


@pytest.mark.full
def test_ordinary_clips_are_read_by_the_fast_decoder(shared_data):
    clips = sorted((shared_data / "survfight" / "videos").rglob("*.mp4"))
    assert len(clips) == 120
    assert {probe(clip).decoder for clip in clips} == {"decord"}


def test_frames_of_irregular_times_are_counted_and_read_by_their_place(tmp_path: Path, shown) -> None:
    path = tmp_path / "irregular.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30, options={"g": "10", "bf": "2", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 600)
        time = 0
        for index in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 8 * index, dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 600)
            output.mux(stream.encode(frame))
            time += 20 if index % 3 else 70
        output.mux(stream.encode())
    info = probe(path)
    assert info.num_frames == NUM_FRAMES
    places = np.asarray([0, 7, 8, 20, 29])
    frames = decode(path, places, height_px=120, width_px=160, decoder=info.decoder)
    assert shown(frames) == places.tolist()


def test_an_encrypted_file_is_refused(write_video) -> None:
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "ab" * 16, "encryption_kid": "cd" * 16}
    with pytest.raises(VideoDecodeError) as caught:
        probe(write_video("secret.mp4", **key))
    assert caught.value.reason == "encrypted"

"""Decoding in a separate process. A fake `decode` hangs, crashes or uses memory, as the file name says."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from advise_ray.errors import DecoderError, VideoDecodeError, unwrapped
from advise_ray.video import decode_process
from advise_ray.video.decode import decode, decode_errors
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.probe import LIMITS, Limits, probe
from advise_ray.video.synth import synthesize

STAND_IN = """
import os, signal, time
from advise_ray.video import decode as decoding
real, kept = decoding.decode, []
def decode(source, *request, **how):
    if "sleeps" in str(source):
        time.sleep(1000)
    if "crashes" in str(source):
        os.kill(os.getpid(), signal.SIGSEGV)
    if "killed" in str(source) and not os.path.exists(str(source) + ".done"):
        open(str(source) + ".done", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if "always" in str(source):
        os.kill(os.getpid(), signal.SIGKILL)
    if "faulty" in str(source):
        raise TypeError("bad operand")
    if "memory" in str(source):
        raise MemoryError
    if "grows" in str(source):
        kept.append(bytearray(os.urandom(1000) * 64_000))
    return real(source, *request, **how)
decoding.decode = decode
"""
SIZE = {"height_px": 120, "width_px": 160}
FRAMES = np.asarray([7, 3, 3, 100])


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one")
    synthesize(root, 1, seed=0)
    return next(root.rglob("*.mp4"))


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def decoder() -> Iterator[DecodeProcess]:
    with DecodeProcess(deadline_s=20) as process:
        yield process


def ask(decoder: DecodeProcess, path: Path) -> np.ndarray:
    return decoder.decode(str(path), FRAMES, name=path.name, **SIZE)


def test_it_gives_what_decoding_here_gives(decoder: DecodeProcess, video: Path) -> None:
    np.testing.assert_array_equal(ask(decoder, video), decode(video, FRAMES, **SIZE))
    assert decoder.probe(str(video), "x", LIMITS) == probe(video)
    with pytest.raises(VideoDecodeError, match=r"^gone.mp4: no such file$"):
        ask(decoder, video.with_name("gone.mp4"))
    with pytest.raises(VideoDecodeError, match=r"^x: ends before frame 120$"):
        decoder.decode(str(video), np.asarray([0, 120]), name="x", **SIZE)


def test_what_asks_for_too_much_is_refused(decoder: DecodeProcess, video: Path) -> None:
    for limits, reason in (
        (Limits(max_pixels=320 * 240 - 1), "320×240 is more than the 76799 pixels allowed"),
        (Limits(max_duration_s=3), "4 s is more than the 3 s allowed"),
        (Limits(max_frames=100), "has more than the 100 frames allowed"),
    ):
        with pytest.raises(VideoDecodeError, match=reason) as caught:
            decoder.probe(str(video), "x", limits)
        assert not caught.value.lasting


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sleeps.mp4", "sleeps.mp4: decoding took longer than 3 s"),
        ("crashes.mp4", "crashes.mp4: the decoder crashed (SIGSEGV)"),
        ("always.mp4", "always.mp4: the decoder was killed twice (SIGKILL); is memory short?"),
        ("memory.mp4", "memory.mp4: the decoder was killed twice (exit code 1); is memory short?"),
    ],
)
def test_what_hangs_or_crashes_costs_one_video(stand_in: None, video: Path, name: str, reason: str) -> None:
    bad = video.with_name(name)
    if not bad.exists():
        bad.symlink_to(video)
    with DecodeProcess(deadline_s=3) as decoder:
        whole = ask(decoder, video)
        started_s = time.monotonic()
        with pytest.raises(VideoDecodeError) as caught:
            ask(decoder, bad)
        assert str(caught.value) == reason
        assert time.monotonic() - started_s < 10
        np.testing.assert_array_equal(ask(decoder, video), whole)


def test_a_process_that_was_killed_between_two_videos_is_nobodys_fault(decoder: DecodeProcess, video: Path) -> None:
    whole = ask(decoder, video)
    assert decoder._process is not None
    decoder._process.kill()
    decoder._process.wait()
    np.testing.assert_array_equal(ask(decoder, video), whole)


def test_a_process_that_is_killed_once_costs_no_video(stand_in: None, video: Path, decoder: DecodeProcess) -> None:
    whole = ask(decoder, video)
    killed = video.with_name("killed.mp4")
    killed.symlink_to(video)
    np.testing.assert_array_equal(ask(decoder, killed), whole)


def test_a_fault_of_ours_is_not_told_as_the_videos(stand_in: None, video: Path, decoder: DecodeProcess) -> None:
    faulty = video.with_name("faulty.mp4")
    faulty.symlink_to(video)
    with pytest.raises(DecoderError, match=r"^faulty.mp4: TypeError: bad operand; the video is not to blame$"):
        ask(decoder, faulty)
    assert len(ask(decoder, video)) == len(FRAMES)


@pytest.mark.parametrize(
    ("site", "reason"),
    [
        ("import sys\nif 'advise_ray.video.decode_server' in str(sys.orig_argv): sys.modules['av'] = None", "av"),
        (
            "import os, sys\nif 'advise_ray.video.decode_server' in str(sys.orig_argv): os.kill(os.getpid(), 9)",
            "SIGKILL",
        ),
        ("import os, sys\nif 'advise_ray.video.decode_server' in str(sys.orig_argv): os._exit(3)", "exit code 3"),
    ],
)
def test_a_process_that_does_not_start_is_no_videos_fault(
    site: str, reason: str, video: Path, tmp_path: Path, decoder: DecodeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(site)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(decode_process, "PAUSES_S", (0.0, 0.1))
    with pytest.raises(DecoderError, match=rf"does not start: .*{reason}.*no video is to blame"):
        ask(decoder, video)


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.EMFILE, "Too many open files"), (errno.ENOMEM, "Cannot allocate")]
)
def test_a_machine_that_starts_no_process_is_no_videos_fault(
    number: int, reason: str, video: Path, decoder: DecodeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **how: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(decode_process, "PAUSES_S", (0.0, 0.1))
        patch.setattr(decode_process.subprocess, "Popen", refuse)
        with pytest.raises(DecoderError, match=reason):
            ask(decoder, video)
    assert len(ask(decoder, video)) == len(FRAMES)  # it starts again when the machine can


def test_a_machine_without_file_descriptors_is_no_videos_fault() -> None:
    with pytest.raises(OSError, match="Too many"), decode_errors(Path("a.mp4"), "a.mp4"):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with pytest.raises(ImportError), decode_errors(Path("a.mp4"), "a.mp4"):
        raise ImportError("libavcodec")
    with (
        pytest.raises(VideoDecodeError, match="a fault of advise-ray") as caught,
        decode_errors(Path("a.mp4"), "a.mp4"),
    ):
        raise TypeError("bad operand")
    assert not caught.value.lasting


def test_what_ray_wraps_and_adds_to_stays_one_line() -> None:
    error = pickle.loads(pickle.dumps(DecoderError("the decoding process does not start")))
    error.args = (f"{error.args[0]}\nFailed to apply UDF transform",)
    wrapped = RuntimeError("a traceback")
    wrapped.cause = error  # type: ignore[attr-defined]
    assert str(unwrapped(wrapped)) == "the decoding process does not start"


def test_a_process_that_grows_is_replaced(stand_in: None, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_process, "MAX_GROWTH_BYTES", 100 * 2**20)
    grows = video.with_name("grows.mp4")
    grows.symlink_to(video)
    with DecodeProcess(deadline_s=20) as decoder:
        processes = set()
        for _ in range(6):
            ask(decoder, grows)
            processes.add(decoder._process and decoder._process.pid)
        assert len(processes) > 1


def test_it_dies_with_its_parent(video: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time, numpy as np\n"
        "from advise_ray.video.decode_process import DecodeProcess\n"
        "from advise_ray.video.probe import LIMITS\n"
        "decoder = DecodeProcess(20)\n"
        "decoder.probe(sys.argv[1], 'x', LIMITS)\n"
        "print(decoder._process.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(video)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)

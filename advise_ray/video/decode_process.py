"""Decodes in a separate process, so that a hang or a crash of native code fails only one video.

    with DecodeProcess(deadline_s=60) as decoder:
        frames = decoder.decode("s3://bucket/a.mp4", np.arange(8), height_px=256, width_px=320)

The process starts with the first call, is killed at the deadline, and is replaced after it died or used much memory.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advise_ray.errors import AdviseRayError, DecoderError, VideoDecodeError
from advise_ray.video.decode_server import SharedMemory
from advise_ray.video.probe import Limits, VideoInfo

SERVER = "advise_ray.video.decode_server"
MAX_GROWTH_BYTES = 256 * 2**20
"""A process is replaced if its memory grows by more than this after its first video, because decord can leak memory."""

CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
"""Signals of crashes in native code. The others come from outside, such as from the out-of-memory killer, or tell that
memory is short (SIGBUS): a video that is read at such a time is read again."""

START_S = 120.0
"""Maximum time in seconds until a new process can decode. It imports the libraries."""
PAUSES_S = (0.0, 1.0, 5.0)
"""Pauses before each try to start a process, in seconds."""


def _environment() -> dict[str, str]:
    """Without our allocator settings for processes that compute: a decoder would keep gigabytes of freed memory."""
    kept = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES" or "trim" not in value}
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class DecodeProcess:
    """Runs `video.decode.decode` and `video.probe.probe` with a deadline, for local paths, URLs and bytes.

    It is not thread-safe: make one call at a time. Every call can raise DecoderError: the process does not start, or
    has a fault that no video is to blame for.
    """

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._memory = [SharedMemory(os.memfd_create("frames")) for _ in range(2)]
        self._turn = 0
        self._first_bytes = self._bytes = 0

    def frames(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return shared memory for clips, uint8[B, T, H, W, 3], that the process writes to. Two buffers alternate.

        Two are enough, because Ray Data serializes the result of a task before the next task starts.
        """
        self._turn = 1 - self._turn
        return self._memory[self._turn].view(shape)

    def decode_into(
        self,
        frames: NDArray[np.uint8],
        places: NDArray[np.int64],
        location: str | bytes,
        frame_indices: NDArray[np.int64],
        *,
        name: str,
        **how: Any,
    ) -> None:
        """Decode the clips of one video into the memory that the last call of `frames` returned.

        Args:
            places: int64[K], indices into the first axis of `frames`.
            frame_indices: int64[K, T].
            how: `decoder`, `stream_index`, `rotation_deg`, see `video.decode.decode`.

        Raises:
            VideoDecodeError: The file cannot be read, decoding exceeds the deadline, or the decoder crashed. Some of
                the places may have been written.
        """
        target = (self._turn, frames.shape, places)
        self._ask(name, ("decode", location, name, frame_indices, target, how))

    def decode(
        self, location: str | bytes, frame_indices: NDArray[np.int64], *, name: str, **how: Any
    ) -> NDArray[np.uint8]:
        """Decode frames int64[T] to a new array uint8[T, height_px, width_px, 3], see `video.decode.decode`.

        Raises:
            VideoDecodeError: See `decode_into`.
        """
        frames = self.frames((1, len(frame_indices), how.pop("height_px"), how.pop("width_px"), 3))
        self.decode_into(frames, np.zeros(1, dtype=np.int64), location, frame_indices[None], name=name, **how)
        return frames[0].copy()

    def probe(self, location: str | bytes, name: str, limits: Limits) -> VideoInfo:
        """Probe a file, see `video.probe.probe`.

        Raises:
            VideoDecodeError: See `decode_into`, or the file has no video, is damaged, or exceeds a limit.
        """
        info: VideoInfo = self._ask(name, ("probe", location, name, limits))
        return info

    def thumbnails(
        self, location: str, times_s: NDArray[np.float64], *, name: str, height_px: int, width_px: int
    ) -> NDArray[np.uint8]:
        """Decode small pictures, see `video.thumbnails.thumbnails`.

        Raises:
            VideoDecodeError: See `decode_into`.
        """
        pictures: NDArray[np.uint8] = self._ask(name, ("thumbnails", location, name, times_s, height_px, width_px))
        return pictures

    def resident_bytes(self) -> int:
        """Return the resident memory of the process after its last answer, in bytes."""
        return self._bytes

    def close(self) -> None:
        """Kill the process; the next call starts a new one."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._pipe = None

    def __enter__(self) -> DecodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, name: str, request: tuple[Any, ...]) -> Any:
        outcome = self._exchange(name, request)
        self._recycle()
        if isinstance(outcome, AdviseRayError):
            raise outcome
        return outcome

    def _exchange(self, name: str, request: tuple[Any, ...]) -> Any:
        """Send a request and return the answer. If the process was killed meanwhile, ask a new one, once."""
        for is_last_try in (False, True):
            if self._process is None or self._process.poll() is not None:
                self._start()
            assert self._process is not None
            assert self._pipe is not None
            try:
                self._pipe.send(request)
                if not self._pipe.poll(self.deadline_s):
                    raise VideoDecodeError(name, f"decoding took longer than {self.deadline_s:g} s", lasting=False)
                outcome, self._bytes = self._pipe.recv()
                return outcome
            except (EOFError, OSError):
                died_of = -self._process.wait()
                self.close()
                if died_of in CRASHES:
                    raise VideoDecodeError(name, f"the decoder crashed ({_signal_name(died_of)})") from None
                if is_last_try:
                    reason = f"the decoder was killed twice ({_signal_name(died_of)}); is memory short?"
                    raise VideoDecodeError(name, reason, lasting=False) from None
            except BaseException:  # timeout or interrupt: its late answer must not be read by the next call
                self.close()
                raise
        raise AssertionError

    def _start(self) -> None:
        reason = ""
        for pause_s in PAUSES_S:
            time.sleep(pause_s)
            self.close()
            try:
                self._launch()
                return
            except OSError as error:
                reason = error.strerror or str(error)
            except EOFError:
                reason = ""
        self.close()
        reason = reason or _why_it_ends()
        raise DecoderError(
            f"the decoding process does not start: {reason}; no video is to blame. Free some memory, raise the limits "
            "of open files and processes (`ulimit -n`, `ulimit -u`), or check the installation with `advise-ray doctor`"
        )

    def _launch(self) -> None:
        """Start a process and wait until it can decode.

        Raises:
            OSError: the system does not start it, or it takes longer than START_S.
            EOFError: it has ended.
        """
        self._pipe, theirs = multiprocessing.Pipe()
        with theirs:
            files = (theirs.fileno(), *(memory.file for memory in self._memory))
            self._process = subprocess.Popen(  # noqa: S603 (ourselves)
                [sys.executable, "-m", SERVER, *map(str, files)],
                pass_fds=files,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # only the driver handles Ctrl-C
                env=_environment(),
            )
        if not self._pipe.poll(START_S):
            raise TimeoutError(f"it takes longer than {START_S:g} s")
        self._pipe.recv()
        self._first_bytes = 0

    def _recycle(self) -> None:
        self._first_bytes = self._first_bytes or self._bytes
        if self._bytes > self._first_bytes + MAX_GROWTH_BYTES:
            self.close()


def _why_it_ends() -> str:
    """Return the last line that a new process prints, such as an ImportError."""
    code = [sys.executable, "-c", f"import {SERVER}"]
    how: dict[str, Any] = {"capture_output": True, "text": True, "env": _environment(), "timeout": START_S}
    try:
        ended = subprocess.run(code, check=False, **how)  # noqa: S603 (ourselves)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    said = ended.stderr.strip().splitlines()
    return said[-1] if ended.returncode and said else f"it ended ({_signal_name(-ended.returncode)})"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"exit code {-number}"

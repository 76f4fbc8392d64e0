"""Decodes in a separate process, so that a hang or a crash of native code fails only one video.

    with DecodeProcess(deadline_s=60) as decoder:
        frames = decoder.decode("s3://bucket/a.mp4", np.arange(8), height_px=256, width_px=320)

The process starts with the first call, is killed at the deadline, and is replaced after it died or used much memory.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advise_ray.errors import UsageError, VideoDecodeError
from advise_ray.storage import remote
from advise_ray.storage.transports import StorageError
from advise_ray.video import decode as decoding
from advise_ray.video.decode import Source
from advise_ray.video.probe import Limits, VideoInfo, probe

MAX_GROWTH_BYTES = 256 * 2**20
"""A process is replaced if its memory grows by more than this after its first video, because decord can leak memory."""

CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGBUS)
"""Signals of crashes in native code. Other signals come from outside, such as from the out-of-memory killer."""


def _environment() -> dict[str, str]:
    """Without our allocator settings for processes that compute: a decoder would keep gigabytes of freed memory."""
    kept = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES" or "trim" not in value}
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class DecodeProcess:
    """Runs `video.decode.decode` and `video.probe.probe` with a deadline, for local paths and URLs.

    It is not thread-safe: make one call at a time.
    """

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._memory = [_SharedMemory(os.memfd_create("frames")) for _ in range(2)]
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
        location: str,
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

    def decode(self, location: str, frame_indices: NDArray[np.int64], *, name: str, **how: Any) -> NDArray[np.uint8]:
        """Decode frames int64[T] to a new array uint8[T, height_px, width_px, 3], see `video.decode.decode`.

        Raises:
            VideoDecodeError: See `decode_into`.
        """
        frames = self.frames((1, len(frame_indices), how.pop("height_px"), how.pop("width_px"), 3))
        self.decode_into(frames, np.zeros(1, dtype=np.int64), location, frame_indices[None], name=name, **how)
        return frames[0].copy()

    def probe(self, location: str, name: str, limits: Limits) -> VideoInfo:
        """Probe a file, see `video.probe.probe`.

        Raises:
            VideoDecodeError: See `decode_into`, or the file has no video, is damaged, or exceeds a limit.
        """
        info: VideoInfo = self._ask(name, ("probe", location, name, limits))
        return info

    def resident_bytes(self) -> int:
        """Return the resident memory of the process after its last answer, in bytes."""
        return self._bytes

    def close(self) -> None:
        """Kill the process; the next call starts a new one."""
        if self._process is not None and self._pipe is not None:
            self._pipe.close()
            self._process.kill()
            self._process.wait()
        self._process = self._pipe = None

    def __enter__(self) -> DecodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, name: str, request: tuple[Any, ...]) -> Any:
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        assert self._pipe is not None
        try:
            self._pipe.send(request)
            if not self._pipe.poll(self.deadline_s):
                raise VideoDecodeError(name, f"decoding took longer than {self.deadline_s:g} s", lasting=False)
            outcome, self._bytes = self._pipe.recv()
        except (EOFError, OSError):
            died_of = -self._process.wait()
            self.close()
            reason = f"the decoder crashed ({_signal_name(died_of)})"
            raise VideoDecodeError(name, reason, lasting=died_of in CRASHES) from None
        except BaseException:  # timeout or interrupt: its late answer must not be read by the next call
            self.close()
            raise
        self._recycle()
        if isinstance(outcome, VideoDecodeError):
            raise outcome
        return outcome

    def _start(self) -> None:
        self.close()
        self._pipe, theirs = multiprocessing.Pipe()
        files = (theirs.fileno(), *(memory.file for memory in self._memory))
        self._process = subprocess.Popen(  # noqa: S603 (ourselves)
            [sys.executable, "-m", "advise_ray.video.decode_process", *map(str, files)],
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # only the driver handles Ctrl-C
            env=_environment(),
        )
        theirs.close()
        self._first_bytes = 0

    def _recycle(self) -> None:
        self._first_bytes = self._first_bytes or self._bytes
        if self._bytes > self._first_bytes + MAX_GROWTH_BYTES:
            self.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"exit code {-number}"


class _SharedMemory:
    """Anonymous memory that parent and child share. It avoids two copies of the frames that a pipe would make.

    It grows to the size of the largest request, survives the child, and is freed with the last view of it.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self.memory: mmap.mmap | None = None

    def view(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return the first bytes as uint8[shape]."""
        num_bytes = math.prod(shape)
        if self.memory is None or len(self.memory) < num_bytes:
            if os.fstat(self.file).st_size < num_bytes:
                os.ftruncate(self.file, num_bytes)
            self.memory = mmap.mmap(self.file, num_bytes)
        return np.frombuffer(self.memory, dtype=np.uint8, count=num_bytes).reshape(shape)

    def __del__(self) -> None:
        os.close(self.file)


def _serve(pipe: Connection[Any, Any], memory: list[_SharedMemory]) -> None:
    """Answer requests until the parent closes the pipe."""
    while True:
        try:
            kind, location, name, *request = pipe.recv()
        except EOFError:
            return
        try:
            source, answer = _source(location, name), None
            if kind == "probe":
                answer = probe(source, name, *request)
            else:
                frame_indices, (turn, shape, places), how = request
                size = {"height_px": shape[2], "width_px": shape[3]}
                frames = decoding.decode(source, frame_indices.ravel(), name=name, **size, **how)
                memory[turn].view(shape)[places] = frames.reshape(-1, *shape[1:])
            pipe.send((answer, _resident_bytes()))
        except VideoDecodeError as error:
            pipe.send((error, _resident_bytes()))


def _source(location: str, name: str) -> Source:
    if not remote.is_url(location):
        return Path(location)
    try:
        return remote.read(location)
    except (StorageError, UsageError) as error:
        raise VideoDecodeError(name, str(error), lasting=False) from None


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    _die_with_parent()
    pipe_file, *memory_files = map(int, sys.argv[1:])
    _serve(Connection(pipe_file), [_SharedMemory(file) for file in memory_files])

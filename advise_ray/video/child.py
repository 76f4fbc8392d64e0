"""Decoding in a process of its own: a hang or a crash of native code costs one video, not the work around it.

    with DecodeProcess(deadline_s=60) as decoder:
        frames = decoder.decode("s3://bucket/a.mp4", np.arange(8), height_px=256, width_px=320)

The process is started when it is first needed, killed at the deadline, and replaced when it has died or grown.
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

from advise_ray.errors import VideoDecodeError
from advise_ray.video import decode as decoding
from advise_ray.video import storage
from advise_ray.video.decode import Limits, VideoInfo
from advise_ray.video.readers import Source

MAX_GROWTH_BYTES = 256 * 2**20
"""A process that holds so much more than after its first video is replaced: decord has grown without end before."""


class DecodeProcess:
    """`decode` and `probe` of `advise_ray.video.decode`, for local paths and URLs, within a deadline.

    Not safe for threads: one call at a time.
    """

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._first_bytes = self._bytes = 0

    def decode(self, location: str, frame_indices: NDArray[np.int64], *, name: str, **how: Any) -> NDArray[np.uint8]:
        """See `decode.decode`: uint8[T, height_px, width_px, 3], in memory that the next call writes to.

        Raises:
            VideoDecodeError: the file cannot be read, or not within the deadline, or the decoder crashed on it.
        """
        shape = self._ask(name, ("decode", location, frame_indices, {"name": name, **how}))
        frames = self._memory.view(shape)
        self._recycle()
        return frames

    def probe(self, location: str, name: str, limits: Limits) -> VideoInfo:
        """See `decode.probe`.

        Raises:
            VideoDecodeError: as `decode`.
        """
        info: VideoInfo = self._ask(name, ("probe", location, name, limits))
        self._recycle()
        return info

    def resident_bytes(self) -> int:
        """Memory that the process held after its last answer."""
        return self._bytes

    def close(self) -> None:
        """End the process; the next call starts another one."""
        if self._process is not None and self._pipe is not None:
            self._pipe.close()
            self._process.kill()
            self._process.wait()
            os.close(self._memory.file)
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
                self.close()
                raise VideoDecodeError(name, f"decoding took longer than {self.deadline_s:g} s", lasting=False)
            outcome, self._bytes = self._pipe.recv()
        except (EOFError, OSError):
            died_of = self._process.wait()
            self.close()
            raise VideoDecodeError(name, f"the decoder crashed on it ({_signal_name(-died_of)})") from None
        if isinstance(outcome, VideoDecodeError):
            raise outcome
        return outcome

    def _start(self) -> None:
        self.close()
        self._pipe, theirs = multiprocessing.Pipe()
        self._memory = _SharedMemory(os.memfd_create("frames"))
        shared = (theirs.fileno(), self._memory.file)
        self._process = subprocess.Popen(  # noqa: S603 (ourselves)
            [sys.executable, "-m", "advise_ray.video.child", *map(str, shared)],
            pass_fds=shared,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the driver's matter
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
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
    """Memory without a name that parent and child both see; a pipe would copy the pictures twice more.

    It is as large as the largest clip that was put into it, and ends with the last of the two.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self.memory: mmap.mmap | None = None

    def view(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The first bytes as uint8[shape]."""
        num_bytes = math.prod(shape)
        if self.memory is None or len(self.memory) < num_bytes:
            if os.fstat(self.file).st_size < num_bytes:
                os.ftruncate(self.file, num_bytes)
            self.memory = mmap.mmap(self.file, num_bytes)
        return np.frombuffer(self.memory, dtype=np.uint8, count=num_bytes).reshape(shape)


def _serve(pipe: Connection[Any, Any], memory: _SharedMemory) -> None:
    """What the process does until its parent hangs up."""
    while True:
        try:
            kind, location, *request = pipe.recv()
        except EOFError:
            return
        try:
            source = _source(location, request[0] if kind == "probe" else request[1]["name"])
            if kind == "probe":
                pipe.send((decoding.probe(source, *request), _resident_bytes()))
            else:
                frames = decoding.decode(source, request[0], **request[1])
                memory.view(frames.shape)[:] = frames
                pipe.send((frames.shape, _resident_bytes()))
        except VideoDecodeError as error:
            pipe.send((error, _resident_bytes()))


def _source(location: str, name: str) -> Source:
    if not storage.is_url(location):
        return Path(location)
    try:
        return storage.read(location)
    except storage.StorageError as error:
        raise VideoDecodeError(name, str(error), lasting=False) from None


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    _die_with_parent()
    _serve(Connection(int(sys.argv[1])), _SharedMemory(int(sys.argv[2])))

"""The process that decodes for a `DecodeProcess`, and the memory that both use.

    python -m advise_ray.video.decode_server PIPE MEMORY MEMORY

The arguments are numbers of inherited files.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advise_ray.errors import DecoderError, UsageError, VideoDecodeError
from advise_ray.storage import remote
from advise_ray.storage.transports import StorageError
from advise_ray.video import decode as decoding
from advise_ray.video.decode import Source
from advise_ray.video.probe import probe
from advise_ray.video.thumbnails import thumbnails


class SharedMemory:
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


def _serve(pipe: Connection[Any, Any], memory: list[SharedMemory]) -> None:
    """Tell that the imports are done, then answer requests until the parent closes the pipe."""
    pipe.send("ready")
    while True:
        try:
            kind, location, name, *request = pipe.recv()
        except EOFError:
            return
        try:
            source = _source(location, name)
            answer: Any = None
            if kind == "probe":
                answer = probe(source, name, *request)
            elif kind == "thumbnails":
                times_s, height_px, width_px = request
                answer = thumbnails(source, times_s, height_px, width_px, name)
            else:
                frame_indices, (turn, shape, places), how = request
                size = {"height_px": shape[2], "width_px": shape[3]}
                frames = decoding.decode(source, frame_indices.ravel(), name=name, **size, **how)
                memory[turn].view(shape)[places] = frames.reshape(-1, *shape[1:])
            pipe.send((answer, _resident_bytes()))
        except VideoDecodeError as error:
            pipe.send((error, _resident_bytes()))
        except MemoryError:
            raise  # a new process may have enough
        except Exception as error:
            reason = f"{name}: {type(error).__name__}: {error}; the video is not to blame"
            pipe.send((DecoderError(reason), _resident_bytes()))


def _source(location: str | bytes, name: str) -> Source:
    if isinstance(location, bytes):
        return location
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
    _serve(Connection(pipe_file), [SharedMemory(file) for file in memory_files])

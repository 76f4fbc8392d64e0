"""Measures the memory that a process uses."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import Any


def status_bytes(name: str, pid: int | str = "self") -> int:
    """A process's resident memory in bytes, from Linux: `VmRSS` is the present value, `VmHWM` the peak."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


class PeakMemory:
    """Measures peak memory: of the CUDA device, or of this process (Linux) above its memory at construction."""

    def __init__(self, device: Any) -> None:
        self.on_cuda = device.type == "cuda"
        _trim()
        self.floor_bytes = 0 if self.on_cuda else status_bytes("VmRSS")

    def forget_peak(self) -> None:
        """Restart the measurement. Building a model temporarily needs more memory than the model keeps."""
        if self.on_cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            _trim()
            with contextlib.suppress(OSError):  # some sandboxes do not have this file
                Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def peak(self) -> dict[str, int]:
        """A dict with `peak_bytes`, or an empty dict if the system does not report it."""
        try:
            return {"peak_bytes": self.peak_bytes()}
        except OSError:
            return {}

    def peak_bytes(self) -> int:
        if self.on_cuda:
            import torch

            return int(torch.cuda.max_memory_allocated())
        return status_bytes("VmHWM") - self.floor_bytes


def _trim() -> None:
    """Return freed memory to the system, so that it does not count as used."""
    with contextlib.suppress(OSError):  # the C library is not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)

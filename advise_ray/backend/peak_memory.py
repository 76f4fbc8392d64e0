"""How much memory processes take."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import Any


def status_bytes(name: str, pid: int | str = "self") -> int:
    """A process's memory as Linux counts it: `VmRSS` now, `VmHWM` at its highest."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


class PeakMemory:
    """Peak memory above a floor: of the CUDA device where the work is there, else of this process (Linux)."""

    def __init__(self, device: Any) -> None:
        self.on_cuda = device.type == "cuda"
        _trim()
        self.floor_bytes = 0 if self.on_cuda else status_bytes("VmRSS")

    def forget_peak(self) -> None:
        """Count from now on; building a model takes more than it keeps."""
        if self.on_cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            _trim()
            with contextlib.suppress(OSError):  # some sandboxes have none
                Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> dict[str, int]:
        """`peak_bytes`, where the system tells."""
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
    """Give back what is held for later: it would be taken for what is in use."""
    with contextlib.suppress(OSError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)

"""Settings for processes that compute: cores and memory. Imports quickly, because it is imported before torch."""

from __future__ import annotations

import gc
import os

KEPT_BYTES = 1 << 30
ENVIRONMENT = {
    # How long a thread spins at OpenMP's barriers. OpenMP reads it when torch is imported. With GNU's default, the
    # threads of two torch processes on the same cores block each other.
    "GOMP_SPINCOUNT": "3000",
    # glibc reads this when a process starts. By default it returns a large tensor's memory to the system when the
    # tensor is freed, and each step pays for new page faults. With these settings the process keeps the memory, in
    # huge pages, and has few page faults.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:"
    f"glibc.malloc.mmap_threshold={KEPT_BYTES}:glibc.malloc.trim_threshold={4 * KEPT_BYTES}",
}
"""Environment of processes that compute. `advise-ray` restarts itself with it; Ray's processes inherit it."""


def collect_rarely() -> None:
    """Run Python's garbage collector after every 100,000 new objects instead of every 700.

    Importing torch creates very many permanent objects, and each full collection inspects all of them.
    """
    gc.set_threshold(100_000, 10, 10)


def use_cores(processes_on_node: int) -> None:
    """Give torch this process's share of the cores.

    By default Ray limits a process that reserves a fraction of a CPU to one thread.
    """
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes_on_node))

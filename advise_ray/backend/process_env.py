"""How computing processes use the cores and the memory of a machine. Light to import: it comes before torch."""

from __future__ import annotations

import gc
import os

KEPT_BYTES = 1 << 30
ENVIRONMENT = {
    # How long a thread spins at OpenMP's barriers; torch reads it when it is imported. With GNU's default, threads of
    # two torch processes on the same cores stall each other for seconds.
    "GOMP_SPINCOUNT": "3000",
    # The C library reads this when a process starts. By default glibc returns large tensors to the system when they are
    # freed, and each step takes them again page by page. Kept, and in huge pages, there are hardly any page faults.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:"
    f"glibc.malloc.mmap_threshold={KEPT_BYTES}:glibc.malloc.trim_threshold={4 * KEPT_BYTES}",
}
"""For processes that compute. The `advise-ray` command restarts itself with it; Ray's processes inherit it."""


def collect_rarely() -> None:
    """Run Python's garbage collector after every 100,000 new objects instead of every 700.

    Importing torch creates half a million objects that stay, and each collection looks at all of them.
    """
    gc.set_threshold(100_000, 10, 10)


def use_cores(processes_on_node: int) -> None:
    """Give torch this process's share of the cores. Ray would give a process with a share of a CPU a single thread."""
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes_on_node))

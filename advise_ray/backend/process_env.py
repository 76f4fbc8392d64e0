"""How computing processes share the cores of a machine and keep their memory. Light: it comes before torch."""

from __future__ import annotations

import gc
import os
import sys

KEPT_BYTES = 1 << 30
ENVIRONMENT = {
    # How long a thread spins at OpenMP's barriers; read when torch is imported. With GNU's default, threads stall each
    # other as soon as other threads want the cores: on 2 cores, beside another torch process, steps of a real run took
    # up to 103 s for 1 s. Two processes stepping beside each other, with this: 1.5 s a step; one alone about 0.7 s, as
    # without it; one that never spins 0.9 s to 1 s (single timings on a noisy machine).
    "GOMP_SPINCOUNT": "3000",
    # Read when a process starts. glibc gives large tensors back to the system as they are freed and takes them again
    # in the next step, page by page: 57,000 page faults a step of 4 clips. Kept, and in huge pages: 10 to 50, and the
    # step took 0.38 s instead of 0.60 s (lite0 live, 2 cores, medians of 3 processes in turn; kept alone 0.43 s).
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:"
    f"glibc.malloc.mmap_threshold={KEPT_BYTES}:glibc.malloc.trim_threshold={4 * KEPT_BYTES}",
}


def prepare() -> None:
    """Set what processes that this one starts will read, where the user has not."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def restart_prepared() -> None:
    """Begin this command again with `ENVIRONMENT`, which the C library reads at the start of a process alone."""
    if sys.platform == "linux" and any(name not in os.environ for name in ENVIRONMENT):
        prepare()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (ourselves)


def collect_rarely() -> None:
    """Let Python look for garbage after every 100,000th object instead of every 700th.

    Importing torch and what is built on it makes half a million objects that stay: 11 s of imports take 7.5 s so.
    """
    gc.set_threshold(100_000, 10, 10)


def use_cores(processes_on_node: int) -> None:
    """Give torch this process's share of the cores: Ray gives one with a share of a CPU a single thread."""
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes_on_node))

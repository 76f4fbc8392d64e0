"""How computing processes share the cores of a machine. Light to import: the command sets it before torch is there."""

from __future__ import annotations

import os

ENVIRONMENT = {"GOMP_SPINCOUNT": "3000"}
"""How long a thread spins at OpenMP's barriers; read when torch is imported. With GNU's default, threads stall each
other as soon as other threads want the cores: on 2 cores, beside another torch process, steps of a real run took up to
103 s for 1 s. Two processes stepping beside each other, with this: 1.5 s a step; one alone about 0.7 s, as without it;
one that never spins 0.9 s to 1 s (single timings on a noisy machine)."""


def prepare() -> None:
    """Set what torch will read, where the user has not."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def use_cores(processes_on_node: int) -> None:
    """Give torch this process's share of the cores: Ray gives one with a share of a CPU a single thread."""
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes_on_node))

"""Many small operators on a CPU, in threads that do not wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def in_threads(work: Callable[[], None]) -> None:
    """Call `work` once in each of torch's threads, in which each operator uses one thread only, and wait for all.

    torch divides each operator among its threads, and they wait for each other after each one. That takes longer than a
    small operator, and much longer if other processes use the cores.
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def in_mode() -> None:
        with torch.inference_mode(inference), torch.no_grad():  # each thread has modes of its own
            work()

    torch.set_num_threads(1)  # new threads take over this number
    try:
        with ThreadPoolExecutor(max(1, threads - 1)) as pool:
            others = [pool.submit(in_mode) for _ in range(threads - 1)]
            in_mode()
            for other in others:
                other.result()
    finally:
        torch.set_num_threads(threads)

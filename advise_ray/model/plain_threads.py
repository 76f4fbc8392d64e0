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
        with torch.inference_mode(inference), torch.no_grad():
            work()

    if threads == 1:
        in_mode()
        return
    torch.set_num_threads(1)  # new threads take over this number
    try:
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(in_mode) for _ in range(threads)]:
                done.result()
    finally:
        torch.set_num_threads(threads)

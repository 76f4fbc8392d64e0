from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from advise_ray.model.plain_threads import in_threads


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("inference", [False, True])
def test_every_thread_works_alone_in_the_mode_of_its_caller(inference: bool) -> None:
    together = threading.Barrier(3, timeout=10)
    with torch.inference_mode(inference):
        ones, seen = torch.ones(3), []

        def work() -> None:
            place = together.wait()
            ones[place] += 1
            seen.append((torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()))

        in_threads(work)
    assert seen == [(1, False, inference)] * 3
    assert ones.tolist() == [2, 2, 2]
    assert torch.get_num_threads() == 3


def test_an_error_in_any_thread_is_raised() -> None:
    caller = threading.get_ident()

    def work() -> None:
        if threading.get_ident() != caller:
            raise MemoryError("too large")

    with pytest.raises(MemoryError, match="too large"):
        in_threads(work)
    assert torch.get_num_threads() == 3

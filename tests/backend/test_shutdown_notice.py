"""The effect of a signal on running work."""

from __future__ import annotations

import os
import signal
import time

import pytest
import ray

from advise_ray.backend import shutdown_notice

pytestmark = pytest.mark.usefixtures("local_ray")


def test_word_reaches_those_who_work_and_is_forgotten_by_the_next() -> None:
    ask = ray.remote(num_cpus=0)(shutdown_notice.was_given)
    before = signal.getsignal(signal.SIGTERM)
    with shutdown_notice.awaited("work", 60, lambda: True) as noticed:
        os.kill(os.getpid(), signal.SIGTERM)
        assert noticed.given
        noticed.pass_on()
        assert ray.get([ask.remote("work"), ask.remote("other work")]) == [True, False]
    assert signal.getsignal(signal.SIGTERM) is before
    with shutdown_notice.awaited("work", 60, lambda: True) as noticed:
        assert not noticed.given
        assert not ray.get(ask.remote("work"))


@pytest.mark.parametrize(("matters", "signals"), [(False, 1), (True, 2)])
def test_it_ends_at_once_where_nothing_would_be_lost_and_at_the_second_signal(matters: bool, signals: int) -> None:
    sent: list[int] = []
    with pytest.raises(KeyboardInterrupt), shutdown_notice.awaited("work", 60, lambda: matters):  # noqa: PT012
        while len(sent) < 2:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), sent[-1])
    assert len(sent) == signals


def test_a_ctrl_c_that_a_shell_told_to_ignore_stays_ignored() -> None:
    ours = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with shutdown_notice.awaited("work", 60, lambda: True) as noticed:
            os.kill(os.getpid(), signal.SIGINT)
        assert not noticed.given
    finally:
        signal.signal(signal.SIGINT, ours)


def test_its_time_is_bounded() -> None:
    started_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt), shutdown_notice.awaited("work", 0.2, lambda: True):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    assert time.monotonic() - started_s < 10

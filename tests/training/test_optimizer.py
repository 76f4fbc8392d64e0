from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advise_ray.config import OptimConfig, load
from advise_ray.model.advise import build_advise
from advise_ray.training.optimizer import build_optimizer, learning_rate

LR = 1e-3


def curve(warmup_epochs: float, steps_per_epoch: int, epochs: int, schedule: str = "cosine") -> list[float]:
    optim = OptimConfig(lr=LR, warmup_epochs=warmup_epochs, schedule=schedule)
    total = steps_per_epoch * epochs
    return [learning_rate(optim, step, steps_per_epoch, total) for step in range(total)]


runs = st.tuples(st.floats(0, 12), st.integers(1, 20), st.integers(1, 10))


@given(runs, st.sampled_from(["cosine", "constant"]))
def test_it_is_never_zero_and_never_above_lr(run: tuple[float, int, int], schedule: str) -> None:
    assert all(0 < value <= LR for value in curve(*run, schedule))


@given(runs)
def test_it_rises_then_falls(run: tuple[float, int, int]) -> None:
    warmup_epochs, steps_per_epoch, _ = run
    rates = curve(*run)
    for step, (before, after) in enumerate(itertools.pairwise(rates)):
        assert before < after if step + 1 < warmup_epochs * steps_per_epoch else True
        assert before > after if step >= warmup_epochs * steps_per_epoch else True


def test_the_warm_up_is_linear_and_the_rest_half_a_cosine() -> None:
    rates = curve(warmup_epochs=1, steps_per_epoch=9, epochs=5)
    assert rates[:10] == pytest.approx([LR * step / 10 for step in range(1, 11)])
    assert rates[9 + 18] == pytest.approx(LR / 2)
    assert rates[9 + 12] == pytest.approx(LR * 3 / 4)
    assert 0 < rates[-1] < LR / 100


def test_without_a_warm_up_it_starts_at_the_top() -> None:
    assert curve(0, 5, 2)[0] == LR


def test_constant_stays_where_the_warm_up_led() -> None:
    rates = curve(1, 4, 3, "constant")
    assert rates[:4] == pytest.approx([LR / 5 * step for step in range(1, 5)])
    assert rates[4:] == [LR] * 8


def test_a_run_shorter_than_its_warm_up_only_rises() -> None:
    rates = curve(warmup_epochs=5, steps_per_epoch=3, epochs=2)
    assert rates == pytest.approx([LR * step / 7 for step in range(1, 7)])


def test_a_pretrained_module_may_go_slower_than_its_head(tiny: tuple[str, ...]) -> None:
    model = build_advise(load(None, [*tiny, "model.head.normalise=true"]), 3).temporal
    (all_alike,) = build_optimizer(model, OptimConfig()).param_groups
    assert (len(all_alike["params"]), all_alike["factor"]) == (len(list(model.parameters())), 1.0)
    slow, fast = build_optimizer(model, OptimConfig(tmm_lr_factor=0.1)).param_groups
    assert {id(each) for each in slow["params"]} == {id(each) for each in model.tmm.parameters()}
    assert (slow["factor"], fast["factor"]) == (0.1, 1.0)
    assert len(slow["params"]) + len(fast["params"]) == len(all_alike["params"])
    probe = build_advise(load(None, [*tiny, "model.freeze_tmm=true"]), 3).temporal
    assert [group["factor"] for group in build_optimizer(probe, OptimConfig(tmm_lr_factor=0.1)).param_groups] == [1.0]

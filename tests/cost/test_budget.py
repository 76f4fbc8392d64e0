"""The length of a run from a budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from advise_ray.cost.budget import MOST_EPOCHS, START_S, choose_length
from advise_ray.cost.predict import Cost


def cost(live_epoch_s: float, cached_epoch_s: float, cache_hours: float, cache_bytes: int = 10**9) -> Cost:
    saved_s = live_epoch_s - cached_epoch_s
    return {
        "live_hours": live_epoch_s / 360,
        "live_epoch_s": live_epoch_s,
        "cached_hours": cached_epoch_s / 360,
        "cached_epoch_s": cached_epoch_s,
        "cache_hours": cache_hours,
        "cache_bytes": cache_bytes,
        "cache_pays_from_epoch": int(cache_hours * 3600 / saved_s) + 1 if saved_s > 0 else None,
        "decode_cores_per_worker": 1.0,
        "rates": {},
    }


def test_a_cache_is_made_if_it_saves_much_time_and_fits():
    usual = {"usual_epochs": 30, "budget_hours": None}
    fast, slow = cost(100, 5, 0.1), cost(100, 5, 10)
    assert choose_length(fast, **usual, free_bytes=10**10).cached
    assert not choose_length(slow, **usual, free_bytes=10**10).cached
    full = choose_length(fast, **usual, free_bytes=10**9)
    assert not full.cached
    assert "the cache takes 1 GB, but 1 GB are free" in full.reason
    assert choose_length(fast, **usual, free_bytes=None).cached  # an object store


def test_a_budget_buys_epochs_up_to_a_limit():
    slow = cost(100, 90, 10)
    assert choose_length(slow, usual_epochs=30, budget_hours=1, free_bytes=None).epochs == 35
    assert choose_length(slow, usual_epochs=30, budget_hours=99, free_bytes=None).epochs == MOST_EPOCHS
    least = choose_length(slow, usual_epochs=30, budget_hours=0.01, free_bytes=None)
    assert least.epochs == 1
    assert "one epoch takes longer than the 0.01 h that there are" in least.reason


@given(st.floats(0.01, 1e5), st.floats(0.01, 1e5), st.floats(0.001, 1e3), st.floats(1e-4, 1e4), st.integers(0, 10**12))
def test_the_predicted_time_keeps_the_budget(live_s, cached_s, cache_hours, hours, free_bytes):
    chosen = choose_length(
        cost(live_s, cached_s, cache_hours), usual_epochs=8, budget_hours=hours, free_bytes=free_bytes
    )
    assert 1 <= chosen.epochs <= MOST_EPOCHS
    assert chosen.hours <= hours * (1 + 1e-9) or (chosen.epochs == 1 and chosen.hours >= START_S / 3600)
    assert not chosen.cached or free_bytes > 10**9

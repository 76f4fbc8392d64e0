"""Chooses the epochs of a run, and whether it caches features, from a predicted cost and a time budget."""

from __future__ import annotations

from dataclasses import dataclass

from advise_ray.cost.predict import Cost

MOST_EPOCHS = 100
"""A budget never buys more epochs than this."""
START_S = 20.0
"""Time in seconds to start the processes of a run, which `Cost` does not include."""
LEAST_GAIN = 1.5
"""A cache is made if it gives this many times the epochs in the same time: cached clips have less augmentation."""
FREE_FRACTION = 0.9
"""A cache may fill this fraction of the free bytes of its disk."""


@dataclass(frozen=True)
class Length:
    """The length of a run.

    Attributes:
        cached: whether to make a feature cache first and to train from it.
        hours: predicted hours, with those that make the cache.
        reason: the predicted time, and why it is cached or live, in one sentence without a full stop.
    """

    epochs: int
    cached: bool
    hours: float
    reason: str


def choose_length(cost: Cost, *, usual_epochs: int, budget_hours: float | None, free_bytes: int | None) -> Length:
    """Choose the epochs that fit into the budget, at least 1, and the faster of live and cached training.

    Args:
        usual_epochs: the number of epochs without a budget.
        budget_hours: hours for the cache, if there is one, and the training. None: no limit.
        free_bytes: free bytes on the disk of the cache. None for an object store, which has no limit.
    """
    has_room = free_bytes is None or cost["cache_bytes"] <= FREE_FRACTION * free_bytes
    live_epochs = cached_epochs = usual_epochs
    if budget_hours is not None:
        live_epochs = _epochs(budget_hours, 0.0, cost["live_epoch_s"])
        cached_epochs = _epochs(budget_hours, cost["cache_hours"], cost["cached_epoch_s"])
    live_hours = (START_S + live_epochs * cost["live_epoch_s"]) / 3600
    cached_hours = cost["cache_hours"] + (START_S + cached_epochs * cost["cached_epoch_s"]) / 3600
    cached = has_room and cached_epochs / cached_hours > LEAST_GAIN * live_epochs / live_hours
    epochs, hours = (cached_epochs, cached_hours) if cached else (live_epochs, live_hours)
    reason = _reason(cost, has_room, free_bytes, cached)
    if epochs < 1:
        epochs, hours = 1, (START_S + cost["live_epoch_s"]) / 3600
        reason = f"one epoch takes longer than the {budget_hours:g} h that there are; {reason}"
    how = "from a feature cache, which is made first" if cached else "without a feature cache"
    return Length(epochs, cached, hours, f"about {_time(hours)}, {how}: {reason}")


def _epochs(budget_hours: float, cache_hours: float, epoch_s: float) -> int:
    left_s = (budget_hours - cache_hours) * 3600 - START_S
    return int(min(max(left_s, 0.0) / epoch_s, MOST_EPOCHS))


def _reason(cost: Cost, has_room: bool, free_bytes: int | None, cached: bool) -> str:
    takes = f"the cache takes {_size(cost['cache_bytes'])}"
    if not has_room:
        assert free_bytes is not None
        return f"{takes}, but {_size(free_bytes)} are free; `advise-ray cache --dry-run` lists smaller ones"
    if cached and free_bytes is not None:
        takes += f" of the {_size(free_bytes)} that are free"
    first = cost["cache_pays_from_epoch"]
    pays = f"saves time from epoch {first} on" if first else "never saves time"
    epoch = f"an epoch takes {_time(cost['cached_epoch_s'] / 3600)} instead of {_time(cost['live_epoch_s'] / 3600)}"
    return f"{takes} and {_time(cost['cache_hours'])} to write, and {pays}" + (f": {epoch}" if first else "")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.3g} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.3g} MB"


def _time(hours: float) -> str:
    if hours < 2 / 60:
        return f"{hours * 3600:.3g} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.3g} h"

from __future__ import annotations

import numpy as np
import pytest

from advise_ray.experiment.bootstrap import mean_over_sets, paired


def drawn(rng: np.random.Generator, mean: float, videos: int) -> dict[int, dict[str, float]]:
    return {seed: {str(video): float(rng.random() < mean) for video in range(videos)} for seed in range(5)}


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(60):
        found = mean_over_sets({"a": drawn(rng, 0.7, 40), "b": drawn(rng, 0.3, 40)})
        held += found["low"] <= 0.5 <= found["high"]
    assert held >= 52  # of videos that are independent from seed to seed it is on the safe side


def test_each_set_counts_alike_and_the_draw_over_sets_is_wider() -> None:
    rng = np.random.default_rng(1)
    sets = {"small": drawn(rng, 0.9, 20), "large": drawn(rng, 0.1, 500)}
    fixed, wider = mean_over_sets(sets), mean_over_sets(sets, over_sets=True)
    assert fixed["mean"] == pytest.approx(0.5, abs=0.08)
    assert wider["mean"] == fixed["mean"]
    assert wider["high"] - wider["low"] > 2 * (fixed["high"] - fixed["low"])


def test_a_difference_is_paired_video_by_video() -> None:
    right, wrong = {"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}
    assert paired(right, wrong) == {"a": 1.0, "b": -1.0}
    same = mean_over_sets({"set": {0: paired(right, right), 1: paired(wrong, wrong)}})
    assert (same["mean"], same["low"], same["high"]) == (0.0, 0.0, 0.0)


def test_seeds_may_test_on_other_videos() -> None:
    found = mean_over_sets({"set": {0: {"a": 1.0, "b": 1.0}, 1: {"c": 0.0}}})
    assert found["mean"] == 0.5
    assert (found["low"], found["high"]) == (0.0, 1.0)

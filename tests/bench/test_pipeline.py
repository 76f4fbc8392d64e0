from __future__ import annotations

import pytest

from advise_ray.bench import pipeline as bench


def test_a_rate_is_clips_over_the_median_of_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own: a first time, which does not count, then 1, 2 and 60 s."""
    now_s, took_s = [0.0], iter([500.0, 1.0, 2.0, 60.0])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now_s[0])
    monkeypatch.setattr(bench, "LEAST_S", 10.0)

    def once() -> None:
        now_s[0] += next(took_s)

    assert bench._per_s(8, once) == 8 / 2


@pytest.mark.full
def test_every_arm_trains(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "LEAST_S", 0.2)
    monkeypatch.setattr(bench, "DURATION_S", 3)
    monkeypatch.setattr(bench, "LIVE_EPOCHS", 2)
    monkeypatch.setattr(bench, "CACHED_EPOCHS", 2)
    ifm = "timm:tf_efficientnet_lite0"
    small = (
        "model.tmm={num_blocks: 1, inner_dim: 8, out_dim: 8}",
        "model.sfu={channels: 8, spatial_size: 2}",
        "augment={resize_height_px: 120, resize_width_px: 160, crop_size_px: 112}",
    )
    figures = bench.pipeline(ifms=(ifm,), settings=small)[ifm]
    arms = ("torch", "live", "cached", "decode_only", "ifm_only", "step_only", "tmm_only", "r3d50")
    assert figures.keys() == {f"{arm}_clips_per_s" for arm in arms}

from __future__ import annotations

import pytest

from advise_ray.bench import pipeline as bench


@pytest.mark.full
def test_every_arm_trains_and_what_is_cached_is_faster(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "LEAST_S", 0.2)
    monkeypatch.setattr(bench, "DURATION_S", 3)
    monkeypatch.setattr(bench, "LIVE_EPOCHS", 2)
    monkeypatch.setattr(bench, "CACHED_EPOCHS", 2)
    ifm = "timm:tf_efficientnet_lite0"
    small = (
        # A module that takes no time leaves the image model, which a cache spares.
        "model.tmm={num_blocks: 1, inner_dim: 8, out_dim: 8}",
        "model.sfu={channels: 8, spatial_size: 2}",
        "augment={resize_height_px: 120, resize_width_px: 160, crop_size_px: 112}",
    )
    figures = bench.pipeline(ifms=(ifm,), settings=small)[ifm]
    arms = ("torch", "live", "cached", "decode_only", "ifm_only", "tmm_only", "r3d50")
    assert figures.keys() == {f"{arm}_clips_per_s" for arm in arms}
    assert figures["cached_clips_per_s"] > 3 * figures["live_clips_per_s"]

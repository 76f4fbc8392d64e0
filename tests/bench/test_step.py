from __future__ import annotations

import pytest

from advise_ray.bench import step as bench


@pytest.mark.full
@pytest.mark.parametrize("features", ["live", "cached"])
def test_a_step_is_timed_and_weighed(features: bench.Features) -> None:
    row = bench.measure_step("advise", "open_clip:ViT-B-32", 4, "bf16", features)
    assert row is not None
    assert (row["kind"], row["ifm"], row["clips"], row["precision"]) == ("advise", "open_clip:ViT-B-32", 4, "bf16")
    trained = row["trained_parameters"]
    # Weights, gradients and AdamW's two moments in fp32, and the 87 million frozen parameters in bf16.
    frozen_bytes = 2 * 87e6 if features == "live" else 0
    assert 4 * trained <= row["gradients_bytes"] <= 4 * trained + 1000
    assert 8 * trained <= row["optimizer_bytes"] <= 8 * trained + 1000
    assert row["parameters_bytes"] > 4 * trained + frozen_bytes
    assert row["peak_bytes"] > 4 * 4 * trained + frozen_bytes
    assert row["peak_bytes"] < 2 * 2**30


def row(
    kind: str, ifm: str | None, clips: int, step_s: float, peak_bytes: int, features: bench.Features = "live"
) -> bench.StepRow:
    return {
        "kind": kind,
        "ifm": ifm,
        "features": features,
        "clips": clips,
        "precision": "bf16",
        "step_s": step_s,
        "peak_bytes": peak_bytes,
        "parameters_bytes": 1,
        "gradients_bytes": 1,
        "optimizer_bytes": 1,
        "activations_bytes": 1,
        "trained_parameters": 1,
    }


def test_the_rival_counts_at_its_best() -> None:
    rows = [
        row("r3d50", None, 4, 0.1, 1),
        row("r3d50", None, 8, 9.0, 80),
        row("r3d50", None, 8, 4.0, 90),
        row("advise", "open_clip:ViT-B-32", 8, 2.0, 10),
        row("advise", "open_clip:ViT-B-32", 8, 0.5, 5, "cached"),
        row("advise", "open_clip:ViT-B-16", 16, 1.0, 1),  # the rival did not fit
    ]
    ratios = [(each["features"], each["time_ratio"], each["memory_ratio"]) for each in bench.case_ratios(rows)]
    assert ratios == [("live", 2.0, 8.0), ("cached", 8.0, 16.0)]


def test_the_ratios_of_the_table_are_those_of_eight_live_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(
        kind: str, ifm: str, clips: int, _precision: str, features: bench.Features, _device: str
    ) -> bench.StepRow | None:
        if (kind, clips) == ("r3d50", 16):
            return None
        return row(kind, ifm if kind == "advise" else None, clips, clips / (1 + (kind == "advise")), 8, features)

    monkeypatch.setattr(bench, "measure_step", measured)
    shown: list[bench.StepRow] = []
    result = bench.step(shown.append, "cpu")
    assert (result["time_ratio"], result["memory_ratio"]) == (2.0, 1.0)
    assert shown == result["rows"]
    assert len(shown) == 2 * 2 + 2 * 2 * 3
    assert {each["clips"] for each in result["ratios"]} == {4, 8}

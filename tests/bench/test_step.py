from __future__ import annotations

import pytest

from advise_ray.bench import step as bench


@pytest.mark.full
def test_a_step_is_timed_and_weighed() -> None:
    row = bench.measure_step("advise", "open_clip:ViT-B-32", 4, "bf16")
    assert (row["kind"], row["ifm"], row["clips"], row["precision"]) == ("advise", "open_clip:ViT-B-32", 4, "bf16")
    # Weights, gradients and AdamW's two moments in fp32, and the 87 million frozen parameters in bf16.
    assert row["peak_bytes"] > 4 * 4 * row["trained_parameters"] + 2 * 87e6
    assert row["peak_bytes"] < 2 * 2**30


def test_the_rival_counts_at_its_best() -> None:
    def row(kind: str, ifm: str | None, clips: int, step_s: float, peak_bytes: int) -> bench.StepRow:
        return {
            "kind": kind,
            "ifm": ifm,
            "clips": clips,
            "precision": "bf16",
            "step_s": step_s,
            "peak_bytes": peak_bytes,
            "trained_parameters": 1,
        }

    rows = [
        row("r3d50", None, 4, 0.1, 1),
        row("r3d50", None, 8, 9.0, 80),
        row("r3d50", None, 8, 4.0, 90),
        row("advise", "open_clip:ViT-B-32", 8, 2.0, 10),
        row("advise", "open_clip:ViT-B-16", 8, 1.0, 1),
    ]
    assert bench.step_ratios(rows) == {"time_ratio": 2.0, "memory_ratio": 8.0}

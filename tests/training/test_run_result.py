from __future__ import annotations

import pytest

from advise_ray.config import Config, load
from advise_ray.training.run_result import bound_by


@pytest.mark.parametrize(
    ("settings", "waits", "said"),
    [
        ((), 0.5, "decoding"),
        ((), 0.01, "the image model"),
        (("data.features=/features",), 0.5, "the disk"),
        (("data.features=s3://bucket/features",), 0.5, "the network"),
        (("data.features=/features",), 0.01, "the temporal module"),
        (("model.kind=r3d50",), 0.01, "the model itself"),
    ],
)
def test_what_holds_a_run_up(settings: tuple[str, ...], waits: float, said: str) -> None:
    config: Config = load(None, list(settings))
    assert str(bound_by(config, {"rate/data_wait_fraction": waits})).startswith(said)


def test_one_worker_whose_decoders_are_slow_is_told() -> None:
    """Seven workers wait for the eighth when they exchange gradients, which is no wait for data."""
    rates = {"rate/data_wait_fraction": 0.05, "rate/data_wait_most_fraction": 0.4}
    assert "waits 40% of the time, the workers on average 5%" in str(bound_by(load(None), rates))
    assert "the image model" in str(bound_by(load(None), rates | {"rate/data_wait_most_fraction": 0.1}))

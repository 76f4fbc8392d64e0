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

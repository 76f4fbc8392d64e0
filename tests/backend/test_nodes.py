"""The processes of inference on other machines than the one that trained the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from advise_ray.backend import nodes, session
from advise_ray.backend.processes import Node
from advise_ray.config import INFERENCE, load

TRAINED = """
data: {num_decode_actors: 48, cpus_per_decode_actor: 2, clip: {clips_per_video: 2}}
train: {num_workers: 4, cpus_per_worker: 16, use_gpu: true, global_batch_size: 8}
"""


@pytest.mark.parametrize(
    ("there", "workers", "use_gpu"),
    [
        ([(2, 0)], 1, False),  # a laptop
        ([(8, 1)], 1, True),
        ([(32, 3)], 3, True),
        ([(8, 0), (8, 0), (8, 0)], 3, False),
        ([(0, 0), (8, 1), (8, 1), (16, 0)], 2, True),
        ([(0.5, 0)], 1, False),
    ],
)
def test_inference_takes_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[Node], workers: int, use_gpu: bool
) -> None:
    (tmp_path / "config.yaml").write_text(TRAINED)
    monkeypatch.setattr(session, "nodes", lambda: there)
    shares = nodes.plan(nodes.everywhere(load(tmp_path / "config.yaml", INFERENCE)))
    assert (shares.num_workers, shares.use_gpu) == (workers, use_gpu)
    assert shares.cpus <= sum(cpus for cpus, _ in there)


def test_inference_does_what_its_command_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text(TRAINED)
    monkeypatch.setattr(session, "nodes", lambda: [(16, 4)])
    for asked, expected in (("train.use_gpu=false", (1, False)), ("train.num_workers=2", (2, True))):
        shares = nodes.plan(nodes.everywhere(load(tmp_path / "config.yaml", [*INFERENCE, asked])))
        assert (shares.num_workers, shares.use_gpu) == expected

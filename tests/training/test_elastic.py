"""A run that loses workers and gets them back, on a real Ray cluster of several nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from advise_ray.config import load, to_yaml
from advise_ray.storage.jsonl import read_lines
from tests.runs import eventually, losses

pytestmark = pytest.mark.full
NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 128 << 20}
LOOKS_OFTEN = """
import sys
from pathlib import Path
from advise_ray.config import load
from advise_ray.training import ray_train, trainer
ray_train.RESIZE_CHECK_S = 2.0
trainer.train(load(Path(sys.argv[1])))
"""


class Elastic:
    """A run on two nodes beside the head, of two workers while both are there."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.first, self.second = cluster.add_node(**NODE), cluster.add_node(**NODE)
        self.run_dir, self.log = folder / "runs" / "elastic", folder / "log"

    def start(self, recipe: Path, workers: frozenset[int]) -> None:
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LOOKS_OFTEN, str(recipe)],
                env={**os.environ, "RAY_ADDRESS": self.cluster.address},
                stdout=file,
                stderr=file,
            )
        self.await_(lambda: self.workers() == workers)

    def announce_leave(self, node_id: str) -> None:
        drain = [Path(sys.executable).parent / "ray", "drain-node", "--address", self.cluster.address]
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        time = ["--deadline-remaining-seconds", "60"]
        subprocess.run([*drain, "--node-id", node_id, *reason, *time], check=True, capture_output=True)

    def await_checkpoint(self) -> int:
        """Wait until a checkpoint is there. Returns its step."""
        saved = self.run_dir / "checkpoints"
        self.await_(lambda: any(saved.glob("step_????????")))
        return max(int(path.name[5:]) for path in saved.glob("step_????????"))

    def workers(self) -> set[int]:
        """Of the attempt that wrote last."""
        clips = [path.stem for path in (self.run_dir / "clips").glob("*.parquet")]
        attempts = {name.split("-")[0] for name in clips}
        return {int(name[-3:]) for name in clips if name.startswith(max(attempts))} if attempts else set()

    def first_step(self) -> int:
        """Of the attempt that wrote last."""
        clips = list((self.run_dir / "clips").glob("*.parquet"))
        attempt = max(path.name.split("-")[0] for path in clips)
        last = [path for path in clips if path.name.startswith(attempt)]
        return min(step for path in last for step in pq.read_table(path)["step"].to_pylist())

    def last_step(self) -> int:
        return max((line["step"] for line in read_lines(self.run_dir / "metrics.jsonl")), default=0)

    def lose_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.await_(lambda: self.workers() == {0})

    def await_(self, reached: Callable[[], bool]) -> None:
        try:
            eventually(reached, alive=self.process)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()[-3000:]}") from None


def processes_of(node: Any) -> list[str]:
    """The names of the processes of a node's raylet."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [" ".join(each.cmdline()) for each in raylet.children(recursive=True)]


@pytest.fixture
def elastic(manifest: Path, tiny: tuple[str, ...], tmp_path: Path) -> Iterator[Callable[..., Elastic]]:
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0})
    run = Elastic(cluster, tmp_path)

    def start(*more: str, workers: frozenset[int] = frozenset({0, 1})) -> Elastic:
        own = (
            f"data.manifest={manifest}",
            f"storage.path={tmp_path}/runs",
            "tracking.run_name=elastic",
            "data.log_clips=true",
            "data.num_decode_actors=2",
            "data.cpus_per_decode_actor=0.25",
            "train={num_workers: [1, 2], epochs: 4000, cpus_per_worker: 0.7, use_gpu: false}",
            *more,
        )
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(to_yaml(load(None, [*tiny, *own])))
        run.start(recipe, workers)
        return run

    try:
        yield start
    finally:
        if hasattr(run, "process"):
            run.process.terminate()
            run.process.wait(60)
        cluster.shutdown()


def test_workers_come_and_go(elastic: Callable[..., Elastic]) -> None:
    """A spot machine that is told to go: its node is drained, a checkpoint saved, the node lost, and later replaced."""
    run = elastic("train.checkpoint_every_epochs=4000")
    run.announce_leave(run.second.node_id)
    kept = run.await_checkpoint()  # none is due by itself
    run.lose_second()
    assert run.first_step() > kept
    run.cluster.add_node(**NODE)
    run.await_(lambda: run.workers() == {0, 1})
    run.process.terminate()
    run.process.wait(60)
    assert len(losses(run.run_dir)) > kept


def test_a_run_saves_while_the_node_of_all_its_decode_actors_leaves(elastic: Callable[..., Elastic]) -> None:
    """A worker fills one node, and its decode actors the other. Which one is which, Ray decides."""
    train = "train={num_workers: 1, cpus_per_worker: 1, checkpoint_every_epochs: 4000}"
    run = elastic(train, "data.cpus_per_decode_actor=0.5", workers=frozenset({0}))
    nodes = (run.first, run.second)
    (decoders,) = (node for node in nodes if "RayTrainWorker" not in " ".join(processes_of(node)))
    run.announce_leave(decoders.node_id)
    kept = run.await_checkpoint()
    run.await_(lambda: run.last_step() > kept + 50)  # the actors decode until the node is gone

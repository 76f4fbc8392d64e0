"""A run whose workers become fewer and more again, on a real Ray of several nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from advise_ray.config import load, to_yaml

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 128 << 20}
LOOKS_OFTEN = """
import sys
from pathlib import Path
from advise_ray.config import load
from advise_ray.training import trainer
trainer.RESIZE_CHECK_S = 2.0
trainer.train(load(Path(sys.argv[1])))
"""


def await_(reached: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    deadline_s = time.monotonic() + 180
    while not reached():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline_s, log.read_text()[-3000:]
        time.sleep(0.2)


def test_workers_come_and_go(manifest: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    own = (
        f"data.manifest={manifest}",
        f"storage.path={tmp_path}/runs",
        "tracking.run_name=elastic",
        "data.log_clips=true",
        "data.num_decode_actors=1",
        "data.cpus_per_decode_actor=0.25",
        "train={num_workers: [1, 2], epochs: 4000, cpus_per_worker: 0.7, checkpoint_every_steps: 5, use_gpu: false}",
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(load(None, [*tiny, *own])))
    run_dir, log = tmp_path / "runs" / "elastic", tmp_path / "log"
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 1})
    process = None
    try:
        second = cluster.add_node(**NODE)
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", LOOKS_OFTEN, str(recipe)],
                env={**os.environ, "RAY_ADDRESS": cluster.address},
                stdout=file,
                stderr=file,
            )

        def workers() -> set[int]:
            """Of the attempt that wrote last."""
            clips = [path.stem for path in (run_dir / "clips").glob("*.parquet")]
            attempts = {name.split("-")[0] for name in clips}
            return {int(name[-3:]) for name in clips if name.startswith(max(attempts))} if attempts else set()

        await_(lambda: workers() == {0, 1}, process, log)
        cluster.remove_node(second, allow_graceful=False)
        await_(lambda: workers() == {0}, process, log)
        cluster.add_node(**NODE)
        await_(lambda: workers() == {0, 1}, process, log)
    finally:
        if process is not None:
            process.terminate()
            process.wait(60)
        cluster.shutdown()
    steps = [
        json.loads(line)["step"]
        for line in (run_dir / "metrics.jsonl").read_text().splitlines()
        if "train/loss" in line
    ]
    assert steps == list(range(1, len(steps) + 1))

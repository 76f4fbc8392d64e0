"""Runs on a cluster that grows with Ray's own autoscaler. Its nodes are raylets on this machine."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from advise_ray.config import load, to_yaml
from tests.cluster.growing import Empty, Growing, SoldOut, growing
from tests.runs import command, eventually, eventually_step, losses

pytestmark = pytest.mark.full
SMALL, GPU = {"small": {"CPU": 2}}, {"gpu": {"CPU": 2, "GPU": 1}}
A_CPU_EACH = "1 worker of 1 CPU and 1 decode actor of 1 CPU: there are 0 of 0 CPUs"
GROWS_OFTEN = """
import sys
from pathlib import Path
from advise_ray.config import load
from advise_ray.training import ray_train, trainer
ray_train.RESIZE_CHECK_S = 3.0
trainer.train(load(Path(sys.argv[1])))
"""
Recipe = Callable[..., Path]


@pytest.fixture
def recipe(manifest: Path, tiny: tuple[str, ...], tmp_path: Path) -> Recipe:
    """A recipe of a run of that name, on CPUs."""

    def write(name: str, *settings: str) -> Path:
        own = (f"data.manifest={manifest}", f"storage.path={tmp_path}/runs", f"tracking.run_name={name}")
        path = tmp_path / f"{name}.yaml"
        path.write_text(to_yaml(load(None, [*tiny, *own, "data.log_clips=true", *settings])))
        return path

    return write


def run(cluster: Growing, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=cluster.env, capture_output=True, text=True)


def workers(run_dir: Path) -> set[str]:
    """That the run had when it last wrote which clips it trained on."""
    clips = [path.stem for path in (run_dir / "clips").glob("*.parquet")]
    last = max((name.split("-")[0] for name in clips), default="")
    return {name[-3:] for name in clips if name.startswith(last)}


def test_from_an_empty_head_to_two_workers_and_back(recipe: Recipe, tmp_path: Path) -> None:
    with growing(0, SMALL) as cluster:
        path = recipe("grown", "train.num_workers=2", "train.cpus_per_worker=1", "train.use_gpu=false")
        done = run(cluster, "train", "--config", str(path), "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["status"] == "FINISHED"
        assert workers(tmp_path / "runs" / "grown") == {"000", "001"}
        asked = "2 workers of 1 CPU and 2 decode actors of 1 CPU"
        assert re.search(rf"waiting for {asked}: there are \d of \d CPUs free \(.*small starting\)", done.stderr)
        eventually(lambda: not cluster.nodes())


def test_what_else_asks_for_nodes(recipe: Recipe, synthesized: Path, tmp_path: Path) -> None:
    """An index, a cache, a sweep over it and an evaluation, each from a head that computes nothing."""
    with growing(0, SMALL) as cluster:
        path = recipe("cached", "train.use_gpu=false", "train.epochs=2")
        indexed = ["--format", "folder", "--videos", str(synthesized / "videos"), "--out", str(tmp_path / "m.parquet")]
        sweep = ["--set", "search={seed: {grid: [0, 1]}}", "--set", "tracking.run_name=sweep"]
        for arguments in (
            ["data", "index", *indexed],
            ["cache", "--config", str(path), "--out", str(tmp_path / "features")],
            ["tune", "--config", str(path), *sweep, "--set", f"data.features={tmp_path / 'features'}"],
            ["evaluate", str(path), "--protocol", "knn", "--k", "2"],
        ):
            done = run(cluster, *arguments)
            assert done.returncode == 0, done.stderr
            assert cluster.nodes()
            eventually(lambda: not cluster.nodes())


@pytest.mark.parametrize(
    ("provider", "types", "asked", "why"),
    [
        (Empty, SMALL, A_CPU_EACH, "1 node of type small starting"),
        (SoldOut, SMALL, A_CPU_EACH, "(1 node of type small starting, )?a node of type small did not start: see .*"),
        (Empty, GPU, r"1 worker of 1 GPU, \S+ CPUs? and .*: there are 0 of 0 GPUs", "1 node of type gpu starting"),
    ],
)  # fmt: skip
def test_a_node_that_never_comes(recipe: Recipe, provider: type, types: dict, asked: str, why: str) -> None:
    with growing(0, types, provider=provider) as cluster:
        path = recipe("never", "train.max_wait_s=25")
        done = run(cluster, "train", "--config", str(path))
        line = rf"^error: waiting for {asked} free \({why}\), 0:\d\d, longer than train.max_wait_s=25; resume with: "
        assert done.returncode == 1
        assert re.search(line, done.stderr, re.MULTILINE), done.stderr
        cached = run(cluster, "cache", "--config", str(path), "--out", str(path.with_name("features")))
        assert cached.returncode == 1
        assert re.search(line.replace("; resume with: ", "$"), cached.stderr, re.MULTILINE), cached.stderr


def test_a_range_grows_and_its_decode_actors_with_it(recipe: Recipe, tmp_path: Path) -> None:
    settings = "train={num_workers: [1, 3], cpus_per_worker: 1, global_batch_size: 24, use_gpu: false, epochs: 4000}"
    path = recipe("range", settings)
    run_dir = tmp_path / "runs" / "range"
    with growing(2, SMALL) as cluster, begun([sys.executable, "-c", GROWS_OFTEN, str(path)], cluster) as process:
        eventually(lambda: workers(run_dir) == {"000", "001", "002"}, alive=process)
        eventually(lambda: len(cluster.nodes()) == 2, alive=process)
        eventually(lambda: free_cpus(run_dir) == 0, alive=process)  # three workers and three that decode, on six


@pytest.mark.parametrize("of", ["RayTrainWorker", "ReadClips"])
def test_a_node_that_leaves_is_replaced(recipe: Recipe, tmp_path: Path, of: str) -> None:
    """The node of the workers, and the node of those that decode for them."""
    path = recipe("left", "train={num_workers: 2, cpus_per_worker: 1, use_gpu: false, epochs: 4000}")
    run_dir = tmp_path / "runs" / "left"
    with growing(0, SMALL) as cluster, begun(command("train", "--config", str(path)), cluster) as process:
        eventually_step(run_dir, 20, alive=process)
        (node,) = [
            node for node in cluster.nodes() if any(of in " ".join(child.cmdline()) for child in node.children())
        ]
        node.kill()
        eventually(lambda: node not in cluster.nodes() and len(cluster.nodes()) == 2, alive=process)
        done = len(losses(run_dir))
        eventually_step(run_dir, done + 20, alive=process)
        assert workers(run_dir) == {"000", "001"}


def test_two_runs_share_what_there_is(recipe: Recipe, tmp_path: Path) -> None:
    """One node and no other: the second run waits until the first has ended."""
    settings = ("train.cpus_per_worker=1", "data.cpus_per_decode_actor=1", "train.epochs=30", "train.use_gpu=false")
    said: dict[str, subprocess.CompletedProcess[str]] = {}
    with growing(0, {"small": {"CPU": 2, "max_workers": 1}}) as cluster:
        paths = {name: recipe(name, *settings) for name in ("one", "two")}

        def train(name: str) -> None:
            said[name] = run(cluster, "train", "--config", str(paths[name]))

        both = [threading.Thread(target=train, args=(name,)) for name in paths]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    assert [done.returncode for done in said.values()] == [0, 0], [done.stderr for done in said.values()]
    assert any("(2 held by other jobs" in done.stderr for done in said.values())


@contextlib.contextmanager
def begun(arguments: list[str], cluster: Growing) -> Iterator[subprocess.Popen[bytes]]:
    """A run that goes on until it is ended."""
    process = subprocess.Popen(arguments, env=cluster.env, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def free_cpus(run_dir: Path) -> float:
    """As the run noted last."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return sum(node["free_cpus"] for node in json.loads((run_dir / "status.json").read_text())["nodes"])
    return -1.0

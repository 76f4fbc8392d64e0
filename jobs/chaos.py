"""Injects faults into runs on a real Ray cluster of several nodes, and compares each run with an undisturbed run.

    python jobs/chaos.py --out chaos [--kind train_worker] [--moment mid_epoch]

Each kind of fault is injected at three moments of a run. The script prints one line for each case and writes
OUT/chaos.json. It exits with 1 if a case differs from the undisturbed run. A case takes about a minute. The kind `disk`
needs permission to mount a small file system; without it, the case is reported as not run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from advise_ray import dataset
from advise_ray.config import load, to_yaml
from advise_ray.storage.jsonl import read_lines
from advise_ray.video.annotations import read_ucf101
from advise_ray.video.synth import synthesize

KINDS = ("decode_actor", "train_worker", "node", "driver", "controller", "tracking_server", "storage", "disk")
MOMENTS = ("start", "mid_epoch", "checkpoint")
PROCESSES = {"decode_actor": "MapWorker", "train_worker": "RayTrainWorker", "controller": "RunController"}
RESUMED = ("driver", "controller", "disk")
"""Faults that end a run. The script resumes the run with `--resume`."""
AWAY_S = {"tracking_server": 8.0, "storage": 30.0}
DISK_BYTES = 64 << 20
NODE = {"num_cpus": 2, "num_gpus": 0, "object_store_memory": 256 << 20}
RECIPE = (
    "data.val_split=test",
    "data.log_clips=true",
    "data.clip={num_frames: 8, frame_stride: 1, clips_per_video: 2, rates: [1, 2]}",
    "augment={resize_height_px: 120, resize_width_px: 160, crop_size_px: 96}",
    "model.ifm={name: 'timm:test_efficientnet', weights: none, precision: fp32}",
    "model.sfu={temporal_centering: true}",
    "model.tmm={num_blocks: 1, inner_dim: 32, out_dim: 64}",
    "optim.warmup_epochs=1",
    "train={epochs: 8, global_batch_size: 4, val_every_epochs: 4, checkpoint_every_steps: 3, use_gpu: false}",
)
Row = dict[str, Any]


class Case:
    """One run with one fault."""

    def __init__(self, root: Path, manifest: Path, kind: str, moment: str) -> None:
        self.kind, self.moment = kind, moment
        self.folder = root / f"{kind}-{moment}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.storage = self.folder / "runs"
        self.storage.mkdir(parents=True)
        self.run_dir = self.storage / "run"
        self.tracking: subprocess.Popen[bytes] | None = None
        own = [f"data.manifest={manifest}", f"storage.path={self.storage}", "tracking.run_name=run"]
        if kind == "tracking_server":
            self.port = 20000 + os.getpid() % 20000
            own.append(f"tracking.uri=http://127.0.0.1:{self.port}")
        self.recipe = self.folder / "recipe.yaml"
        self.recipe.write_text(to_yaml(load(None, [*RECIPE, *own])), encoding="utf-8")

    def run(self) -> Row:
        started_s = time.monotonic()
        with contextlib.ExitStack() as stack:
            cluster = stack.enter_context(running_cluster())
            if self.kind == "disk" and not stack.enter_context(_small_disk(self.storage)):
                return {
                    "kind": self.kind,
                    "moment": self.moment,
                    "passed": None,
                    "why": "no permission to mount a file system",
                }
            if self.kind == "tracking_server":
                self._serve()
                stack.callback(self._end_server)
            driver = self._train(cluster, "--config", str(self.recipe))
            if self.kind != "none":
                self._await_moment(driver)
                self._inject_fault(driver, cluster)
            codes = [driver.wait(600)]
            if self.kind in RESUMED or self._is_untold():
                (self.storage / "junk").unlink(missing_ok=True)
                codes.append(self._train(cluster, "--resume", str(self.run_dir)).wait(600))
            self.clips, self.metrics = last_clips(self.run_dir), train_lines(self.run_dir)
            result = self.run_dir / "result.json"
            status = json.loads(result.read_text(encoding="utf-8"))["status"] if result.exists() else "no result.json"
        row = {"kind": self.kind, "moment": self.moment, "exit_codes": codes, "status": status}
        return row | {"wall_s": round(time.monotonic() - started_s, 1)}

    def _train(self, cluster: Cluster, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.folder / "driver.log").open("ab")
        return subprocess.Popen(
            [sys.executable, "-m", "advise_ray", "train", *arguments],
            env={**os.environ, "RAY_ADDRESS": cluster.address},
            stdout=log,
            stderr=log,
        )

    def _await_moment(self, driver: subprocess.Popen[bytes]) -> None:
        reached: dict[str, Callable[[], Any]] = {
            "start": lambda: (self.run_dir / "config.yaml").exists(),
            "mid_epoch": lambda: len(train_lines(self.run_dir)) >= 20,
            "checkpoint": lambda: any((self.run_dir / "checkpoints").glob("*.partial")),
        }
        while not reached[self.moment]():
            if driver.poll() is not None:
                raise RuntimeError(f"the run ended before the fault; see {self.folder / 'driver.log'}")
            time.sleep(0.0005 if self.moment == "checkpoint" else 0.02)

    def _inject_fault(self, driver: subprocess.Popen[bytes], cluster: Cluster) -> None:
        if self.kind in PROCESSES:
            os.kill(_find(PROCESSES[self.kind], cluster), signal.SIGKILL)
        elif self.kind == "driver":
            driver.kill()
        elif self.kind == "node":
            if self.moment == "start":
                _find("RayTrainWorker", cluster)
            cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
            time.sleep(2)
            cluster.add_node(**NODE)
        elif self.kind == "tracking_server":
            self._end_server()
            time.sleep(AWAY_S[self.kind])
            self._serve()
        elif self.kind == "storage":
            away = self.storage.with_name("away")
            self.storage.rename(away)
            time.sleep(AWAY_S[self.kind])
            away.rename(self.storage)
        elif self.kind == "disk":
            with contextlib.suppress(OSError), (self.storage / "junk").open("wb", buffering=0) as junk:
                while True:
                    junk.write(bytes(4096))

    def _serve(self) -> None:
        store = f"sqlite:///{self.folder / 'server.db'}"
        command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        self.tracking = subprocess.Popen(
            [sys.executable, *command, "--backend-store-uri", store, "--workers", "1"],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        import requests

        deadline_s = time.monotonic() + 120
        while time.monotonic() < deadline_s:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"http://127.0.0.1:{self.port}/health", timeout=2).ok:
                    return
            time.sleep(0.5)
        raise TimeoutError("the mlflow server did not answer within 120 s")

    def _is_untold(self) -> bool:
        """Whether the server came back after the end of the run, which then names the command that sends the rest."""
        if self.kind != "tracking_server":
            return False
        return not json.loads((self.run_dir / "tracking.json").read_text(encoding="utf-8"))["complete"]

    def _end_server(self) -> None:
        if self.tracking is not None and self.tracking.poll() is None:
            os.killpg(self.tracking.pid, signal.SIGKILL)
            self.tracking.wait()

    def logged_losses(self) -> int:
        """Number of steps whose loss MLflow has."""
        from mlflow import MlflowClient

        run_id = json.loads((self.run_dir / "tracking.json").read_text(encoding="utf-8"))["run_id"]
        history = MlflowClient(f"sqlite:///{self.folder / 'server.db'}").get_metric_history(run_id, "train/loss")
        return len({metric.step for metric in history})


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Start a cluster with a head without CPUs and one worker node."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    try:
        cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _find(name: str, cluster: Cluster) -> int:
    """Wait for a process of this name that a raylet of the cluster has started, and return its id."""
    session = cluster.head_node.get_session_dir_path()
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if not (process / "cmdline").read_bytes().startswith(b"ray::" + name.encode()):
                    continue
                parent = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
                if session.encode() in Path(f"/proc/{parent}/cmdline").read_bytes():
                    return int(process.name)
        time.sleep(0.01)
    raise TimeoutError(f"no process named {name} was started within 120 s")


def last_clips(run_dir: Path) -> dict[int, list[tuple[Any, ...]]]:
    """Step → the clips that it was trained on. For a repeated step, the last attempt counts."""
    written: dict[int, tuple[int, list[Row]]] = {}
    for path in sorted((run_dir / "clips").glob("*.parquet")):
        attempt = int(path.name.split("-")[0])
        for row in pq.read_table(path).to_pylist():
            newest, rows = written.get(row["step"], (-1, []))
            if attempt > newest:
                newest, rows = attempt, []
            if attempt == newest:
                rows.append(row)
            written[row["step"]] = (newest, rows)
    return {step: sorted(map(_clip, rows)) for step, (_, rows) in sorted(written.items())}


def _clip(row: Row) -> tuple[Any, ...]:
    names = ("epoch", "video_id", "clip", "rate_index", "frame_indices", "weight")
    return tuple(tuple(row[name]) if name == "frame_indices" else row[name] for name in names)


def train_lines(run_dir: Path) -> list[tuple[int, float]]:
    """Step and loss of each training step in metrics.jsonl."""
    lines = read_lines(run_dir / "metrics.jsonl") if run_dir.exists() else []
    return [(line["step"], line["values"]["train/loss"]) for line in lines if "train/loss" in line["values"]]


def compare(case: Case, row: Row, reference: Case) -> Row:
    """Compare a case with the undisturbed run; adds `passed` and `problems` to the row."""
    problems = []
    if row["status"] != "FINISHED" or row["exit_codes"][-1] != 0:
        problems.append(f"status {row['status']}, exit codes {row['exit_codes']}")
    if case.clips != reference.clips:
        differing = [step for step in reference.clips if case.clips.get(step) != reference.clips[step]]
        problems.append(f"the clips differ in steps {differing[:5]}")
    if not case.metrics:
        return row | {"passed": False, "problems": problems}
    steps, losses = zip(*case.metrics, strict=True)
    wanted_steps, wanted = zip(*reference.metrics, strict=True)
    if steps != wanted_steps:
        problems.append(f"got {len(steps)} steps ({len(set(steps))} different ones), expected {len(wanted_steps)}")
    elif not np.allclose(losses, wanted, rtol=1e-3):
        problems.append(f"the losses differ by up to {np.abs(np.subtract(losses, wanted)).max():.2g}")
    if case.kind == "tracking_server" and case.logged_losses() != len(wanted_steps):
        problems.append(f"MLflow has {case.logged_losses()} of {len(wanted_steps)} losses")
    return row | {"passed": not problems, "problems": problems}


def make_manifest(root: Path) -> Path:
    """Make a manifest of 24 synthesized videos, 16 of them for training."""
    if not (root / "manifest.parquet").exists():
        synthesize(root / "data", 24, seed=0, layout="ucf101")
        listing = read_ucf101(root / "data" / "videos", root / "data" / "ucfTrainTestlist", 1)
        dataset.index(listing, root / "data" / "videos", root / "manifest.parquet")
    return root / "manifest.parquet"


def chaos(root: Path, kinds: tuple[str, ...], moments: tuple[str, ...], on_row: Callable[[Row], None]) -> list[Row]:
    """Run all cases; each row has the fault, its moment, and the differences from the undisturbed run."""
    import ray

    manifest = make_manifest(root)
    ray.shutdown()
    reference = Case(root, manifest, "none", "never")
    rows = [reference.run() | {"passed": True, "problems": []}]
    on_row(rows[0])
    for kind in kinds:
        for moment in moments:
            case = Case(root, manifest, kind, moment)
            row = case.run()
            rows.append(row if row.get("passed", True) is None else compare(case, row, reference))
            on_row(rows[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the runs and chaos.json")
    parser.add_argument("--kind", choices=KINDS, action="append", help="kind of fault; repeatable; default: all")
    parser.add_argument("--moment", choices=MOMENTS, action="append", help="when it happens; repeatable; default: all")
    options = parser.parse_args()
    root = options.out.absolute()
    root.mkdir(parents=True, exist_ok=True)
    kinds, moments = tuple(options.kind or KINDS), tuple(options.moment or MOMENTS)
    rows = chaos(root, kinds, moments, lambda row: print(json.dumps(row), flush=True))
    (root / "chaos.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"{sum(bool(row['passed']) for row in rows[1:])} of {len(rows) - 1} case(s) passed", file=sys.stderr)
    sys.exit(any(row["passed"] is False for row in rows))


if __name__ == "__main__":
    main()

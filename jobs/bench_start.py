"""Measures how long a training takes to its first step, beside an empty Ray Train program on the same machine.

    python jobs/bench_start.py [--rounds 3] [--json]

The arms take turns. Each starts as a command in a new process, on no running Ray:

- `empty`: a `TorchTrainer` with one worker, whose function returns at once,
- `live` and `cached`: `advise-ray train`, with the recipe `quickstart`, of one epoch of 48 synthesized videos.

`first_step_s` ends when the function of the worker starts (`empty`), or when the first step is written. `processes` and
`cpu_s` are those of the whole command. Medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from advise_ray.bench.machine import machine
from advise_ray.storage.jsonl import read_lines

POLL_S = 0.1
EMPTY = """
import sys, time
from pathlib import Path
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

def run(settings):
    Path(settings["started"]).write_text(str(time.time()))

TorchTrainer(
    run,
    train_loop_config={"started": sys.argv[1]},
    scaling_config=ScalingConfig(num_workers=1),
    run_config=RunConfig(storage_path=sys.argv[2]),
).fit()
"""
Measured = dict[str, float]


def run(command: list[str], first_step_s: Callable[[], float | None], folder: Path) -> Measured:
    """Run a command to its end, and look at its processes meanwhile."""
    began_s, seen = time.time(), dict[int, float]()
    with (folder / "log").open("ab") as log:
        process = psutil.Popen(command, stdout=log, stderr=log, cwd=folder)
        while process.poll() is None:
            for each in [process, *process.children(recursive=True)]:
                try:
                    times = each.cpu_times()
                except psutil.Error:
                    continue
                seen[each.pid] = times.user + times.system
            time.sleep(POLL_S)
    first_s = first_step_s()
    if process.returncode or first_s is None:
        raise SystemExit(f"{' '.join(command[:4])} ended with {process.returncode}; see {folder / 'log'}")
    return {"first_step_s": first_s - began_s, "processes": len(seen), "cpu_s": sum(seen.values())}


def arms(folder: Path) -> dict[str, Callable[[], Measured]]:
    """Prepare the videos and the cache. Returns the command of each arm."""
    advise_ray = [sys.executable, "-m", "advise_ray"]
    videos, manifest, numbers = folder / "videos", folder / "m.parquet", itertools.count()
    index = ["data", "index", "--format", "folder", "--videos", str(videos), "--out", str(manifest)]
    prepare = [["data", "synth", str(videos), "--videos", "48"], index]
    shown = ["--config", "quickstart", "--set", f"data.manifest={manifest}"]
    prepare.append(["cache", *shown, "--out", str(folder / "cache")])
    for command in prepare:
        subprocess.run([*advise_ray, *command], check=True, capture_output=True, cwd=folder)  # noqa: S603 (ourselves)

    def empty() -> Measured:
        started = folder / f"started-{next(numbers)}"
        command = [sys.executable, "-c", EMPTY, str(started), str(folder / "storage")]
        return run(command, lambda: float(started.read_text()) if started.exists() else None, folder)

    def trained(*settings: str) -> Measured:
        name = f"run-{next(numbers)}"
        own = ("train.epochs=1", f"storage.path={folder}/runs", f"tracking.run_name={name}", *settings)
        command = [*advise_ray, "train", *shown, *(word for each in own for word in ("--set", each))]
        lines = folder / "runs" / name / "metrics.jsonl"
        return run(command, lambda: next((line["time_s"] for line in read_lines(lines)), None), folder)

    return {"empty": empty, "live": trained, "cached": lambda: trained(f"data.features={folder}/cache")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measured: dict[str, list[Measured]] = {}
        every = arms(Path(name))
        for _ in range(options.rounds):
            for arm, once in every.items():
                measured.setdefault(arm, []).append(once())
    medians = {
        arm: {key: round(statistics.median(each[key] for each in rounds), 1) for key in rounds[0]}
        for arm, rounds in measured.items()
    }
    if options.json:
        print(json.dumps({**medians, "rounds": measured, **machine()}))
        return
    print("| arm | first step, s | processes | CPU seconds |\n| --- | --- | --- | --- |")
    for arm, found in medians.items():
        print(f"| {arm} | {found['first_step_s']} | {found['processes']:g} | {found['cpu_s']} |")


if __name__ == "__main__":
    main()

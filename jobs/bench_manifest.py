"""Measures memory and start time by the number of videos, with manifests whose rows repeat a few small videos.

    python jobs/bench_manifest.py [--videos 120 240000 1920000] [--json]

For each manifest, the script times `advise-ray train --dry-run`. Then it trains until the first steps are done, with
one worker and one decode actor, and stops the run. It prints the peak of each process's anonymous memory, which are the
pages that belong to this process alone: not mapped files, and not Ray's object store, which the node's processes share.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from advise_ray.backend.peak_memory import status_bytes
from advise_ray.bench.decode import make_manifest
from advise_ray.bench.machine import machine
from advise_ray.storage.mapped import ROWS_AT_ONCE
from advise_ray.video.manifest import SCHEMA

FILES = 24
SETTINGS = (
    "data.num_decode_actors=1",
    "train.num_workers=1",
    "train.use_gpu=false",
    "train.global_batch_size=8",
    "train.epochs=1",
    "model.tmm={num_blocks: 1, inner_dim: 16, out_dim: 32}",
)
KINDS = {"RunController": "controller", "Train": "worker", "ReadClips": "decode actor"}
"""A part of the name that Ray gives a process → the process's kind. `other` is the largest one of all others."""
Row = dict[str, Any]


def repeated(base: pa.Table, num_videos: int, path: Path) -> Path:
    """Write a manifest of `num_videos` videos with ids of their own, which share the files of `base`."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for start in range(0, num_videos, ROWS_AT_ONCE):
            numbers = pa.array(range(start, min(start + ROWS_AT_ONCE, num_videos)))
            rows = base.take(pc.subtract(numbers, pc.multiply(pc.divide(numbers, len(base)), len(base))))
            ids = pc.binary_join_element_wise(numbers.cast(pa.string()), rows.column("video_id"), "-")
            writer.write_table(rows.set_column(0, "video_id", ids))
    return path


def command(manifest: Path, folder: Path, *options: str) -> list[str]:
    settings = [f"data.manifest={manifest}", f"storage.path={folder}", "tracking.run_name=run", *SETTINGS]
    return [sys.executable, "-m", "advise_ray", "train", *options, *(f"--set={setting}" for setting in settings)]


def dry_run_s(manifest: Path, folder: Path) -> float:
    started_s = time.perf_counter()
    subprocess.run(command(manifest, folder, "--dry-run", "--json"), check=True, capture_output=True)  # noqa: S603
    return time.perf_counter() - started_s


def train(manifest: Path, folder: Path) -> Row:
    """Seconds from the start of `train` to its first step, and each process's peak of anonymous memory in GB."""
    started_s, metrics = time.perf_counter(), folder / "run" / "metrics.jsonl"
    peaks: dict[str, float] = defaultdict(float)
    log = folder / "log"
    with log.open("w", encoding="utf-8") as output:
        driver = subprocess.Popen(command(manifest, folder), stdout=output, stderr=output)  # noqa: S603
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if driver.poll() is not None:
                    raise SystemExit(log.read_text(encoding="utf-8"))
                for kind, size in processes(driver.pid):
                    peaks[kind] = max(peaks[kind], size)
                time.sleep(0.05)
            first_step_s = time.perf_counter() - started_s
        finally:
            driver.terminate()
            driver.wait()
    return {"first step, s": first_step_s, **{f"{kind}, GB": size / 1e9 for kind, size in sorted(peaks.items())}}


def processes(driver: int) -> Iterator[tuple[str, int]]:
    """The kind and the anonymous memory in bytes of the driver and of each of Ray's processes with the user's code."""
    for process in [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]:
        try:
            name, size = " ".join(process.cmdline()[:1]), status_bytes("RssAnon", process.pid)
        except (psutil.Error, OSError, StopIteration):
            continue  # it has ended
        if process.pid == driver:
            yield "driver", size
        elif name.startswith("ray::"):
            yield next((kind for part, kind in KINDS.items() if part in name), "other"), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, nargs="+", default=[120, 240_000, 1_920_000])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        base = pq.read_table(make_manifest(Path(name) / "videos", FILES, 4)).select(SCHEMA.names)
        for num_videos in options.videos:
            folder = Path(name) / str(num_videos)
            folder.mkdir()
            manifest = repeated(base, num_videos, folder / "manifest.parquet")
            dry_s = dry_run_s(manifest, folder)
            rows.append({"videos": num_videos, "--dry-run, s": dry_s, **train(manifest, folder)})
    if options.json:
        print(json.dumps({"rows": rows, **machine()}))
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(names) + " |\n| " + " | ".join("---" for _ in names) + " |")
    for row in rows:
        print("| " + " | ".join(f"{row[name]:,.4g}" if name in row else "" for name in names) + " |")


if __name__ == "__main__":
    main()

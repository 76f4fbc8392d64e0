"""Finds scaling limits: measures components on this machine and predicts their load for 8, 64 and 512 GPUs.

    python jobs/bench_scaling.py [--json]

The script measures:

- decoding with one and with two actors (the consumer discards the clips),
- rows per second for 1, 2 and 4 readers, and CPU seconds of the machine per row, if decoding costs nothing: with one
  pipeline, from which a coordinator distributes the rows, and with a pipeline of its own for each reader, as in
  training. Nothing else may use the machine,
- a checkpoint of the paper's module,
- the lines per second that MLflow writes to SQLite.

The table is a prediction with `rates/one_h100.yaml` for the paper's model, with steps of 32 clips per worker.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import ray
import ray.data
from ray.data import DataContext
from ray.data.block import BlockMetadata

from advise_ray.backend import session
from advise_ray.backend.row_stream import stream
from advise_ray.bench import decode
from advise_ray.bench.machine import machine
from advise_ray.config import Config, load
from advise_ray.cost.predict import read_rates
from advise_ray.model.advise import build_advise
from advise_ray.tracking import RunTracker
from advise_ray.training import checkpoint
from advise_ray.training.checkpoint import State
from advise_ray.training.clip_reader import clip_bytes
from advise_ray.training.optimizer import build_optimizer

ROUNDS = 3
CLIPS_PER_STEP = 32
"""Clips per step of each worker, as in the paper's recipe."""
READERS = (1, 2, 4)
NUM_ROWS, NUM_LINES = 500, 2000
"""Rows of each reader, and lines of metrics."""
AHEAD = 8
VIDEO_BYTES, CLIPS_PER_VIDEO = 0.49e6, 4
"""UCF101: 6.5 GB, 13,320 videos."""
DATA_CALLS_PER_S = 1.2
"""Each stream asks Ray Data's location tracker once a second, and reports to its statistics every five seconds."""
GPUS = (8, 64, 512)
STEPS_PER_CHECKPOINT = 300
Row = dict[str, Any]


def decoding(folder: Path) -> Row:
    """Clips per second with one and with two decode actors. The two cases take turns."""
    config = decode.bench_config(decode.make_manifest(folder / "videos", 16, 10), 1, 480)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for actors, found in rates.items():
            found.append(decode.pipeline_clips_per_s(config, actors))
    one, two = (statistics.median(found) for found in rates.values())
    return {"one_actor_clips_per_s": one, "two_actors_clips_per_s": two, "ratio": two / one}


def streams(num_readers: int) -> dict[str, list[float]]:
    """Rows per second and CPU seconds per row of a coordinator and of own streams, without decoding."""
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, read in (("coordinator", _from_coordinator), ("own_streams", _from_own_streams)):
            before_s = _cpu_s()
            readings = read(num_readers)
            found.setdefault(f"{name}_rows_per_s", []).append(sum(count / seconds for count, seconds in readings))
            found.setdefault(f"{name}_cpu_s_per_row", []).append((_cpu_s() - before_s) / (NUM_ROWS * num_readers))
    return found


def _from_coordinator(num_readers: int) -> list[tuple[int, float]]:
    """One pipeline, whose rows an actor of Ray Data deals out: the way of `Dataset.streaming_split`."""
    context = DataContext.get_current().copy()
    context.target_max_block_size, context.downstream_capacity_backpressure_ratio = 1, None
    context.execution_options = ray.data.ExecutionOptions(preserve_order=True)
    with DataContext.current(context):
        source = ray.data.read_datasource(_Numbers(NUM_ROWS * num_readers), num_cpus=0, override_num_blocks=1)
        splits = _passed_on(source, num_readers).streaming_split(num_readers, equal=True)
    return ray.get([_read_split.remote(split) for split in splits])


def _from_own_streams(num_readers: int) -> list[tuple[int, float]]:
    """A pipeline for each reader, in the reader's own process."""
    return ray.get([_read_own.remote() for _ in range(num_readers)])


def _passed_on(dataset: ray.data.Dataset, num_actors: int) -> ray.data.Dataset:
    actors = ray.data.ActorPoolStrategy(size=num_actors)
    return dataset.map_batches(_Same, batch_size=None, compute=actors, num_cpus=0.1)


def _numbers(count: int) -> Iterator[pa.Table]:
    for number in range(count):
        yield pa.table({"number": [number]})


class _Numbers(ray.data.Datasource):
    """A generator of Ray Data: one task yields the rows."""

    def __init__(self, count: int) -> None:
        self.count = count

    def estimate_inmemory_data_size(self) -> None:
        return None

    def get_read_tasks(self, *_args: Any, **_kwargs: Any) -> list[ray.data.ReadTask]:
        about = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ray.data.ReadTask(partial(_numbers, self.count), about)]


class _Same:
    def __call__(self, batch: Row) -> Row:
        return batch


@ray.remote(num_cpus=0)
def _read_split(split: ray.data.DataIterator) -> tuple[int, float]:
    return _time(split.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2))


@ray.remote(num_cpus=0)
def _read_own() -> tuple[int, float]:
    return _time(stream(_numbers(NUM_ROWS), partial(_passed_on, num_actors=1), ahead=AHEAD, preserve_order=True))


def _time(blocks: Iterable[Any]) -> tuple[int, float]:
    """Number of rows after the first one, and their seconds."""
    count, started_s = -1, 0.0
    for _ in blocks:
        started_s = started_s or time.perf_counter()
        count += 1
    return count, time.perf_counter() - started_s


def _cpu_s() -> float:
    """CPU seconds of the whole machine: the processes of a stream end before they could be asked."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def checkpoint_cost(config: Config, folder: Path) -> Row:
    """Seconds and bytes of a checkpoint of the paper's module with a filled optimizer state."""
    model = build_advise(config, 4).temporal
    optimizer = build_optimizer(model, config.optim)
    for parameter in model.trained_parameters():
        parameter.grad = parameter.detach().clone()
    optimizer.step()
    seconds = []
    for step in range(ROUNDS):
        started_s = time.perf_counter()
        path = checkpoint.save(folder, config, model, optimizer, State(step=step))
        seconds.append(time.perf_counter() - started_s)
    size = sum(file.stat().st_size for file in path.iterdir())
    return {"checkpoint_s": statistics.median(seconds), "checkpoint_bytes": size}


def mlflow_lines_per_s(config: Config, folder: Path) -> float:
    """Lines of metrics.jsonl, with four values each, that the tracker writes to SQLite per second."""
    names = ("train/loss", "train/top1", "optim/lr", "optim/grad_norm")
    folder.mkdir(parents=True)
    tracker = RunTracker(config, folder)
    tracker.start(device="cpu")
    lines = [
        {"time_s": time.time(), "epoch": 0, "step": n, "values": dict.fromkeys(names, 0.5)} for n in range(NUM_LINES)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    started_s = time.perf_counter()
    tracker.finish("FINISHED")
    return NUM_LINES / (time.perf_counter() - started_s)


def predict(measured: Row, config: Config) -> list[Row]:
    """Predict the load of each component for 8, 64 and 512 GPUs, and compare it with the measurements."""
    rates = read_rates(Path(__file__).parent / "rates" / "one_h100.yaml")
    live = 1 / (8 / rates.ifm_frames_per_s + 1 / rates.tmm_clips_per_s)
    one, two = measured["streams"]["1"], measured["streams"]["2"]
    bytes_per_clip = clip_bytes(config)
    rows = []
    for gpus in GPUS:
        steps_per_s = live / CLIPS_PER_STEP
        rows.append(
            {
                "GPUs": gpus,
                "clips/s": live * gpus,
                "decode cores": live * gpus / rates.decode_clips_per_s,
                "rows/s of a worker": steps_per_s,
                "of what its own stream passes on here": steps_per_s / one["own_streams_rows_per_s"],
                "of what a coordinator deals out here": steps_per_s * gpus / two["coordinator_rows_per_s"],
                "calls/s to Ray Data's own actors": gpus * DATA_CALLS_PER_S,
                "clips into a node of 8, GB/s": bytes_per_clip * live * 8 / 1e9,
                "storage reads, GB/s": live * gpus * VIDEO_BYTES / CLIPS_PER_VIDEO / 1e9,
                "checkpoints, MB/s": measured["checkpoint_bytes"] / 1e6 / (STEPS_PER_CHECKPOINT / steps_per_s),
                "MLflow lines/s": steps_per_s,
                "of what SQLite took here": steps_per_s / measured["mlflow_lines_per_s"],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = load(
            "jobs/pretrain_ucf101.yaml", ["model.ifm.weights=none", f"storage.path={folder}", "train.use_gpu=false"]
        )
        session.connect()
        measured: Row = {"decoding": decoding(folder), "streams": {}}
        for readers in READERS:
            found = streams(readers)
            measured["streams"][str(readers)] = {name: statistics.median(values) for name, values in found.items()}
        measured |= checkpoint_cost(config, folder)
        measured["mlflow_lines_per_s"] = mlflow_lines_per_s(config, folder / "run")
        rows = predict(measured, config)
    if as_json:
        print(json.dumps({"measured": measured, "predicted": rows, **machine()}))
        return
    print(json.dumps(measured, indent=2))
    print("| " + " | ".join(rows[0]) + " |\n| " + " | ".join("---" for _ in rows[0]) + " |")
    for row in rows:
        print("| " + " | ".join(f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in row.values()) + " |")


if __name__ == "__main__":
    main()

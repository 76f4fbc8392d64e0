"""Finds scaling limits: measures components on this machine and predicts their load for 8, 64 and 512 GPUs.

    python jobs/bench_scaling.py [--json]

The script measures:

- decoding with one and with two actors (the consumer discards the clips),
- the rows per second that a stream's coordinator distributes if reading them costs nothing,
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
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from advise_ray.backend import session
from advise_ray.backend.generator_source import row_by_row, rows
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
NUM_ROWS, NUM_LINES = 3000, 2000
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


def coordinator_rows_per_s(num_workers: int) -> float:
    """Rows per second that a stream like that of training distributes to `num_workers` readers, without decoding."""

    def numbers() -> Any:
        for number in range(NUM_ROWS):
            yield pa.table({"number": [number]})

    with row_by_row(preserve_order=True):
        passed = rows(numbers).map_batches(
            _Same, batch_size=None, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=0.25
        )
        splits = passed.streaming_split(num_workers, equal=True)
    started = [_read.remote(split) for split in splits]
    return sum(count / seconds for count, seconds in ray.get(started))


class _Same:
    def __call__(self, batch: Row) -> Row:
        return batch


@ray.remote(num_cpus=0)
def _read(split: Any) -> tuple[int, float]:
    count, started_s = 0, 0.0
    for _ in split.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2):
        started_s = started_s or time.perf_counter()
        count += 1
    return count, time.perf_counter() - started_s


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
    bytes_per_clip = clip_bytes(config)
    rows = []
    for gpus in GPUS:
        steps_per_s = live / CLIPS_PER_STEP
        rows.append(
            {
                "GPUs": gpus,
                "clips/s": live * gpus,
                "decode cores": live * gpus / rates.decode_clips_per_s,
                "rows/s of the coordinator": steps_per_s * gpus,
                "of what it dealt out here": steps_per_s * gpus / measured["coordinator_rows_per_s"],
                "clips into a node of 8, GB/s": bytes_per_clip * live * 8 / 1e9,
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
        measured = {"decoding": decoding(folder), "coordinator_rows_per_s": coordinator_rows_per_s(2)}
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

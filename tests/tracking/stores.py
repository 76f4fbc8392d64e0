"""Runs and stores that the tests of this folder share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from advise_ray import tracking
from advise_ray.config import Config, load, to_yaml
from advise_ray.tracking import DataSet, RunTracker


def config_of(storage: Path, *settings: str) -> Config:
    return load(None, [f"storage.path={storage}", *settings])


def new_run(config: Config, name: str) -> Path:
    run_dir = Path(config.storage.path) / name
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(to_yaml(config))
    return run_dir


def line(step: int, **values: float) -> str:
    values = {f"train/{name}": value for name, value in values.items()} or {"train/loss": 1 / step}
    return json.dumps({"time_s": 1.7e9 + step, "epoch": 0, "step": step, "values": values}) + "\n"


def write(run_dir: Path, text: str) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(text)


def follow(config: Config, run_dir: Path) -> RunTracker:
    tracker = RunTracker(config, run_dir)
    tracker.start(device="cpu")
    return tracker


def data_set(context: Any = "training", digest: str = "abc") -> DataSet:
    return DataSet(
        name=f"clips {context}",
        digest=digest,
        context=context,
        source="/data/clips.parquet",
        videos=16,
        hours=0.5,
        classes=4,
    )


def steps(config: Config, run_id: str | None, metric: str = "train/loss") -> list[int]:
    client, _ = tracking.connect(config)
    return sorted(point.step for point in client.get_metric_history(run_id, metric))

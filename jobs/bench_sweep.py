"""Measures the cost of sweeps: a sweep of twelve temporal modules over one cache, a live run, and a trial's overhead.

    python jobs/bench_sweep.py --manifest clips.parquet --out /tmp/bench_sweep

A trial's overhead is the time that one more trial adds to a sweep, minus the time of the same trial alone in a warm
process. For comparison, the script also measures one more Tune trial that does nothing, and one that starts a
`TorchTrainer` with an empty loop.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advise_ray.backend import process_env  # before torch is imported

os.environ.update(process_env.ENVIRONMENT | os.environ)

import click
from ray import tune as ray_tune
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import ScalingConfig

from advise_ray.backend import session
from advise_ray.bench.machine import machine
from advise_ray.config import Config, load, recipes
from advise_ray.sweep.fit import QUIET
from advise_ray.sweep.trial import Sweep, follow
from advise_ray.sweep.tuner import tune
from advise_ray.training.trainer import train

TWELVE = (
    "search.model.tmm.num_blocks={grid: [1, 2, 3]}",
    "search.model.tmm.inner_dim={grid: [16, 32]}",
    "search.model.tmm.out_dim={grid: [32, 64]}",
)
FEW, MANY = 2, 10
Row = dict[str, Any]


@click.command()
@click.option("--manifest", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory for the runs.")
@click.option("--config", "recipe", default="quickstart", show_default=True, help="Recipe of the live run.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Setting for all runs; repeatable.")
def main(manifest: Path, out: Path, recipe: str, overrides: tuple[str, ...]) -> None:
    """Measure the cost of sweeps and print one JSON object."""
    numbers = itertools.count()

    def config(*more: str) -> Config:
        own = (f"data.manifest={manifest.absolute()}", f"storage.path={out.absolute()}")
        return load(recipes.find(recipe), [*own, *overrides, f"tracking.run_name=bench-{next(numbers)}", *more])

    session.connect()
    os.environ.update(QUIET)
    live = train(config())
    twelve = tune(config(*TWELVE))
    result: Row = {"live_s": live["wall_s"], "sweep_of_12_s": twelve["wall_s"]}
    result["sweep_over_live"] = twelve["wall_s"] / live["wall_s"]
    (features,) = Path(twelve["sweep_dir"]).glob("features/*")
    alone_s = of_one_alone(config(f"data.features={features}"), out.absolute())
    sweeps = {
        count: tune(
            config(f"data.features={features}", f"search.seed={{choice: {[0] * count}}}", "tune.max_concurrent=1")
        )["wall_s"]
        for count in (FEW, MANY)
    }
    result["trial_alone_s"] = alone_s
    result["trial_overhead_s"] = (sweeps[MANY] - sweeps[FEW]) / (MANY - FEW) - alone_s
    result["empty_tune_trial_s"] = of_a_further_trial(nothing, out)
    result["empty_torch_trainer_trial_s"] = of_a_further_trial(empty_trainer, out, few=1, many=4)
    click.echo(json.dumps(result | machine()))


def of_one_alone(config: Config, out: Path) -> float:
    """Seconds of a trial in this process. The second of two trials counts, because the first warms up."""
    sweep = Sweep(config, out / "alone", 1, use_gpu=session.available_gpus() >= 1)
    times = []
    for number in range(2):
        started_s = time.monotonic()
        trial_dir = sweep.trial_dir(number)
        trial_dir.mkdir(parents=True)
        list(follow(sweep, {}, trial_dir))
        times.append(time.monotonic() - started_s)
    return times[-1]


def of_a_further_trial(trainable: Callable[[Row], None], out: Path, few: int = FEW, many: int = MANY) -> float:
    """Seconds that each additional Tune trial takes if trials run one at a time."""

    def wall_s(count: int) -> float:
        tuner = ray_tune.Tuner(
            ray_tune.with_resources(trainable, {"CPU": 1}),
            param_space={"number": ray_tune.grid_search(list(range(count)))},
            tune_config=ray_tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True),
            run_config=ray_tune.RunConfig(storage_path=str(out.absolute() / "empty"), verbose=0),
        )
        started_s = time.monotonic()
        tuner.fit()
        return time.monotonic() - started_s

    first_s = wall_s(few)
    return (wall_s(many) - first_s) / (many - few)


def nothing(_config: Row) -> None:
    """A trial that ends at once."""
    ray_tune.report({"done": True})


def empty_trainer(_config: Row) -> None:
    """A trial that starts Ray Train with an empty training loop."""
    TorchTrainer(_no_loop, scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5})).fit()
    ray_tune.report({"done": True})


def _no_loop() -> None:
    pass


if __name__ == "__main__":
    main()

"""`tune`: from a search space to trials, a table, figures and the winner's recipe.

The sweep's directory is the truth; Tune's own state is made anew at each start.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from advise_ray.backend import nodes, resource_wait, session
from advise_ray.backend.reservation import await_room
from advise_ray.backend.resources import Node, Shares
from advise_ray.config import Config, load, recipes, to_yaml
from advise_ray.errors import InterruptedRunError, SweepError, TrackingError, UsageError
from advise_ray.storage.atomic import write_whole
from advise_ray.sweep import plots, table
from advise_ray.sweep.features import FEATURE_KEYS, make_features, refuse_unfit
from advise_ray.sweep.fit import run_trials
from advise_ray.sweep.settings import FINETUNED, finetuning, pretraining, resolve, settings_of
from advise_ray.sweep.space import Settings, possible
from advise_ray.sweep.trial import Sweep, winner
from advise_ray.sweep.tune_callback import TrialCallback
from advise_ray.tracking import RunTracker, ui_command
from advise_ray.training import status

Row = dict[str, Any]
OnEvent = Callable[[str], None]
"""Called with a line for people."""


def tune(config: Config, *, on_event: OnEvent = lambda line: None) -> Row:
    """Run a sweep in a new directory.

    Returns:
        What `result.json` holds, see `jobs/README.md`.

    Raises:
        UsageError, ConfigError: before anything is written; every problem with the search space.
        SweepError: no trial has come to its end.
        InterruptedRunError: on KeyboardInterrupt; what is done stays.
    """
    config = resolve(config)
    directory = Path(config.storage.path) / (config.tracking.run_name or f"sweep-{datetime.now():%Y%m%d-%H%M%S}")
    if directory.exists():
        raise UsageError(
            f"{directory} exists; go on with it by `advise-ray tune --resume {directory}`, or choose another "
            "tracking.run_name"
        )
    return _SweepRun(config, directory, on_event).execute()


def resume(directory: Path, *, on_event: OnEvent = lambda line: None) -> Row:
    """Go on with a sweep: trials that have ended are not done again.

    Raises:
        UsageError: it is not a sweep's directory, or another process is at it.
    """
    directory = directory.absolute()
    path = directory / "config.yaml"
    if not path.is_file() or not (config := load(path)).search:
        raise UsageError(f"--resume: {directory} is not a sweep (it has no config.yaml with a search)")
    return _SweepRun(config, directory, on_event).execute()


class _SweepRun:
    def __init__(self, config: Config, directory: Path, on_event: OnEvent) -> None:
        self.config, self.directory, self.on_event = config, directory, on_event
        self.settings = settings_of(config)
        self.started_s = time.monotonic()
        self.trained = list(_trained(config, self.settings))
        refuse_unfit(self.trained)
        session.connect()
        self.trial, rooms = _one_trial(config, nodes.most_nodes(config))
        self.num_trials = len(self.settings) or config.tune.num_trials
        self.concurrent = min(sum(rooms), self.num_trials, config.tune.max_concurrent or sum(rooms))
        on_node = min(max(rooms), math.ceil(self.concurrent / len(session.nodes())))
        self.sweep = Sweep(config, directory, on_node, self.trial.use_gpu)
        self.tracker = RunTracker(config, directory)
        self.waited = False

    def execute(self) -> Row:
        fresh = not self.directory.exists()
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.directory / ".lock", timeout=0):
                if fresh:
                    self._write_config()
                return self._execute()
        except Timeout:
            raise UsageError(f"another `advise-ray tune` is at {self.directory}; wait for it") from None
        except TrackingError:  # only the start raises it
            if fresh:
                shutil.rmtree(self.directory)
            raise

    def _write_config(self) -> None:
        """With the recipe of the fine-tuning as it is now, whatever becomes of it."""
        if self.config.tune.objective in FINETUNED:
            path = self.directory / "finetune.yaml"
            shutil.copy(recipes.find(self.config.tune.finetune), path)
            tuning = self.config.tune.model_copy(update={"finetune": str(path)})
            self.config = self.config.model_copy(update={"tune": tuning})
            self.sweep = dataclasses.replace(self.sweep, config=self.config)
        write_whole(self.directory / "config.yaml", to_yaml(self.config))

    def _execute(self) -> Row:
        self.tracker.start(device=str(self.sweep.device))
        self.tracker.follow(self.directory / "metrics.jsonl")  # a sweep has none: for what it waits for
        recorder = TrialCallback(self.sweep, str(self.tracker.run_id), self.num_trials, self.on_event)
        try:
            recorder.sync()
            todo = [number for number in range(self.num_trials) if number not in recorder.ended_before]
            if self.config.tune.searcher == "tpe":  # its trials take the numbers that are free
                todo = todo[: self.num_trials - len(recorder.ended_before)]
            if todo:
                self.on_event(f"{len(todo)} trials, {self.concurrent} at a time, in {self.directory}")
                make_features(self.trained, self.directory, self.on_event)
                await_room(self.trial, self.config.train.max_wait_s, self._wait)
                run_trials(self.sweep, self.settings, todo, recorder, self.concurrent, self.trial.worker_bundle)
        except (KeyboardInterrupt, InterruptedRunError):
            recorder.leave()
            session.disconnect()
            self._end("KILLED", recorder)
            raise InterruptedRunError(f"interrupted; go on with: advise-ray tune --resume {self.directory}") from None
        except BaseException:
            recorder.leave()
            self._end("FAILED", recorder)
            raise
        recorder.leave()
        shutil.rmtree(self.directory / ".ray", ignore_errors=True)  # Tune's state, which nothing goes on from
        result = self._end("FINISHED", recorder)
        if (left := self.num_trials - len(table.read_trials(self.directory))) > 0:
            self.on_event(f"time is up: {left} trials are left; go on with: advise-ray tune --resume {self.directory}")
        elif result["best"] is None:
            raise SweepError(_why_none(result, self.config))
        return result

    def _wait(self, line: str | None) -> None:
        resource_wait.show(line)
        if line is not None or self.waited:
            self.tracker.tag("waiting", line or "no")
            status.note(self.directory, 0, line)
        self.waited = line is not None

    def _end(self, ended: str, recorder: TrialCallback) -> Row:
        tuning = self.config.tune
        rows = table.read_trials(self.directory)
        table.write_csv(rows, self.directory / "trials.csv")
        best = table.best_trial(rows, tuning.judged_by, tuning.mode)
        recipes = []
        if best is not None:
            for name, recipe in winner(self.sweep, best["number"]).items():
                recipes.append(self.directory / f"best_{name}.yaml")
                recipes[-1].write_text(to_yaml(recipe))
        drawn = plots.draw(self.config, rows, self.directory / "figures") if rows else []
        result: Row = {
            "run_name": self.directory.name,
            "sweep_dir": str(self.directory),
            "mlflow_run_id": self.tracker.run_id,
            "status": ended,
            "trials": self.num_trials,
            **{name.lower(): sum(row["status"] == name for row in rows) for name in ("FINISHED", "PRUNED", "FAILED")},
            "metric": tuning.judged_by,
            "best": best,
            "recipes": [str(path) for path in recipes],
            "table": str(self.directory / "trials.csv"),
            "figures": [str(path) for path in drawn],
            "mlflow_ui": ui_command(self.config),
            "wall_s": round(time.monotonic() - self.started_s, 1),
        }
        write_whole(self.directory / "result.json", json.dumps(result, indent=2) + "\n")
        summary, tags = {}, {}
        if best is not None:
            summary = {f"best/{name}": value for name, value in best["values"].items() if table.is_number(value)}
            tags = {f"best.{key}": json.dumps(value) for key, value in best["settings"].items()}
            tags["best.trial"] = f"{best['number']:04d}"
        artifacts = [self.directory / "trials.csv", *recipes, *drawn]
        complete = self.tracker.finish(ended, artifacts, summary, tags)
        return result | {"tracking_complete": complete and recorder.complete}


def _one_trial(config: Config, cluster: list[Node]) -> tuple[Shares, list[int]]:
    """What a trial reserves, and how many find room on each node, of those there are and may come.

    Raises:
        UsageError: there is none for a single one.
    """
    with_gpu = [cpus / gpus for cpus, gpus in cluster if gpus >= 1]
    use_gpu = bool(with_gpu) if config.train.use_gpu is None else config.train.use_gpu
    beside_gpu = max(1.0, float(min(with_gpu, default=1.0) // 1))
    trial = Shares(1, config.train.cpus_per_worker or (beside_gpu if use_gpu else 1.0), 0, 0.0, use_gpu)
    rooms = [int(min(cpus // trial.cpus, gpus) if use_gpu else cpus // trial.cpus) for cpus, gpus in cluster]
    if not sum(rooms):
        most = max((cpus for cpus, _ in cluster), default=0.0), sum(gpus for _, gpus in cluster)
        raise UsageError(
            f"a trial needs {trial.cpus:g} CPUs{' and a GPU' if use_gpu else ''}, no node has more than {most[0]:g}, "
            f"and there are {most[1]:g} GPUs; lower train.cpus_per_worker, or set train.use_gpu=false"
        )
    return trial, rooms


def _trained(config: Config, settings: list[Settings]) -> Iterator[Config]:
    """The configurations of all trainings that there may be, as far as features and processes go."""
    for each in settings or possible(config.search, FEATURE_KEYS):
        yield pretraining(config, each)
        if config.tune.objective in FINETUNED:
            yield finetuning(config, each, "model.init_from=null")


def _why_none(result: Row, config: Config) -> str:
    failed = [row for row in table.read_trials(Path(result["sweep_dir"])) if row["error"]]
    if failed:
        return f"no trial has come to its end; trial {failed[0]['number']}: {failed[0]['error']}"
    return (
        f"no trial has told of {config.tune.judged_by} (tune.metric); with val/top1, are there validation videos long "
        "enough for the fastest rate? trials.csv has what was measured"
    )

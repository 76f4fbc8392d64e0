"""One trial: runs its trainings and evaluations in order, in this process, and skips those that are finished.

A trial's directory has a run directory for each training (`pretrain`, `finetune`, `scratch`), a `metrics.jsonl` with
the lines of all trainings, and a `reports.jsonl` with its reports to the sweep. An interrupted trial resumes from its
last checkpoint and repeats its earlier reports.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from advise_ray.backend import shutdown_notice
from advise_ray.backend.peak_memory import PeakMemory
from advise_ray.config import Config, load, overrides_of
from advise_ray.errors import InterruptedRunError
from advise_ray.evaluation.evaluate_run import Protocol, score
from advise_ray.evaluation.protocol import Settings as ProtocolSettings
from advise_ray.evaluation.subject import find_subject
from advise_ray.model.ifm import IFM, kept_ifm
from advise_ray.storage.jsonl import append, read_lines, reopen
from advise_ray.storage.lock import hold_lock
from advise_ray.storage.retry import patiently
from advise_ray.sweep.features import folder_of, takes_features
from advise_ray.sweep.settings import FINETUNED, finetuning, pretraining
from advise_ray.sweep.space import Settings
from advise_ray.sweep.trial_result import has_ended
from advise_ray.training import metrics_lines
from advise_ray.training.local import open_here

PROTOCOL = ProtocolSettings(num_crops=1)
"""Ten clips per video with the centre crop of each, because a feature cache has only the centre crop."""
LONGEST_WAIT_S = 60.0
Values = dict[str, float]
"""Name → value. A report also has `epochs` (see `follow`) and `done`, whether it is the last one of its trial."""


@dataclass(frozen=True)
class Sweep:
    """Data that all trials of a sweep share."""

    config: Config
    directory: Path
    processes_on_node: int
    """Number of trials that share the cores of one machine."""
    use_gpu: bool

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.use_gpu else "cpu")

    def should_stop(self) -> bool:
        """Whether the sweep was told to save and end."""
        return shutdown_notice.was_given(str(self.directory))

    def trial_dir(self, number: int) -> Path:
        return self.directory / "trials" / f"{number:04d}"

    def stages(self, settings: Settings, trial_dir: Path) -> dict[str, Config]:
        """The configurations of a trial's trainings, in order. Each name is also the name of the run directory.

        Raises:
            ConfigError: the settings contradict each other.
        """
        stages = {"pretrain": pretraining(self.config, settings)}
        if self.config.tune.objective in FINETUNED:
            init = json.dumps(str(trial_dir / "pretrain"))
            stages["finetune"] = finetuning(self.config, settings, f"model.init_from={init}")
        if self.config.tune.objective == "delta":
            stages["scratch"] = finetuning(self.config, settings, "model.init_from=null")
        return {name: self._placed(config, trial_dir, name) for name, config in stages.items()}

    def _placed(self, config: Config, trial_dir: Path, name: str) -> Config:
        """Set the run directory, the sweep's feature cache, and the device that Tune has assigned."""
        whole = config.model_dump()
        whole["storage"] = {"path": str(trial_dir)}
        whole["tracking"] |= {"run_name": name}
        whole["train"] |= {"use_gpu": self.use_gpu, "cpus_per_worker": None}
        if takes_features(config):
            whole["data"] |= {"features": str(folder_of(config, self.directory))}
        return Config.model_validate(whole)


def follow(sweep: Sweep, settings: Settings, trial_dir: Path) -> Generator[Values]:
    """Run a trial and yield its reports: one at each epoch that has the objective metric, and one at its end (`done`).

    Each report holds all values so far, and `epochs`, the number of epochs of all trainings together.

    Raises:
        AdviseRayError: the configuration is invalid, or a training fails.
        InterruptedRunError: the sweep was told to end; the trial has saved its state.
    """
    if sweep.should_stop():
        raise InterruptedRunError("the sweep was told to end before this trial started")
    make_trial_dir(trial_dir)
    with hold_lock(trial_dir / ".lock", LONGEST_WAIT_S):  # a process of a killed sweep can still hold it
        path = trial_dir / "reports.jsonl"
        reports = patiently(lambda: reopen(path))
        yield from reports
        known: Values = dict(reports[-1]) if reports else {}
        if known.get("done"):
            return
        if has_ended(trial_dir):  # the trial was stopped early
            yield {**known, "done": True}
            return
        stages = sweep.stages(settings, trial_dir)
        last, epochs_told = sum(config.train.epochs for config in stages.values()), known.get("epochs", 0)
        for epochs, values, done in _measure(sweep, stages, trial_dir):
            known |= values
            # The last epoch is reported with the final values, because stopping there would save nothing.
            if done or (sweep.config.tune.judged_by in values and epochs_told < epochs < last):
                report = {**known, "epochs": epochs, "done": done}
                append(path, [report])
                yield report


def make_trial_dir(trial_dir: Path) -> None:
    """Create a trial's directory in that of its sweep, which must exist: storage may be away for a moment."""
    patiently(lambda: trial_dir.parent.mkdir(exist_ok=True))
    patiently(lambda: trial_dir.mkdir(exist_ok=True))


def _measure(sweep: Sweep, stages: dict[str, Config], trial_dir: Path) -> Iterator[tuple[int, Values, bool]]:
    """Train and evaluate; yield the number of epochs so far, the new values, and whether the trial is finished."""
    objective = sweep.config.tune.objective
    epochs, accuracies = 0, Values()
    for name, config in stages.items():
        for epoch, metrics in train_stage(sweep, config, trial_dir, prefix="" if name == "pretrain" else f"{name}/"):
            yield epochs + epoch + 1, metrics, False
        epochs += config.train.epochs
        if name != "pretrain":
            accuracies["acc_ft" if name == "finetune" else "acc_scratch"] = judge(trial_dir / name, "multiview")
            yield epochs, accuracies, False
    values: Values = {"train_s": _train_s(trial_dir / "metrics.jsonl")}
    if objective == "delta":
        values["delta_acc"] = accuracies["acc_ft"] - accuracies["acc_scratch"]
    if objective in ("linear", "knn"):
        values |= {f"{objective}/top1": judge(trial_dir / "pretrain", objective)}
    yield epochs, values, True


def _train_s(metrics: Path) -> float:
    """Training time in seconds of all epochs, including those before an interruption."""
    every = [line["values"].items() for line in patiently(lambda: metrics_lines.read(metrics))]
    return float(sum(value for values in every for name, value in values if name.endswith("rate/epoch_s")))


def train_stage(sweep: Sweep, config: Config, trial_dir: Path, prefix: str) -> Iterator[tuple[int, Values]]:
    """Train in this process from the last checkpoint on; yield each epoch, from 0, and its metrics under `prefix`.

    The metrics include `peak_bytes`, the peak memory of the training so far (see `PeakMemory`).

    Raises:
        AdviseRayError: as `training.trainer.train`.
    """
    plan, worker = open_here(
        config, ifm=_ifm_of(config), processes_on_node=sweep.processes_on_node, should_stop=sweep.should_stop
    )
    lines = _Lines(worker.spec.run_dir / "metrics.jsonl", trial_dir / "metrics.jsonl", prefix)
    epochs = worker.epochs()
    owes_validation = worker.state.owes_validation(plan.schedule.steps_per_epoch)
    if worker.state.step == plan.schedule.total_steps and not owes_validation:  # finished before the interruption
        epochs = iter([config.train.epochs - 1])
    memory = PeakMemory(sweep.device)
    memory.forget_peak()
    for epoch in epochs:
        lines.copy()
        values = {name: value for name, value in worker.state.metrics.items() if not name.startswith("rate/")}
        values |= memory.peak()
        yield epoch, {prefix + name.replace("epoch_", ""): value for name, value in values.items()}


def judge(run_dir: Path, protocol: Protocol) -> float:
    """Evaluate a run on the test videos and return the protocol's top-1."""
    ifm = _ifm_of(load(run_dir / "config.yaml"))
    _, outcomes, _ = score(find_subject(run_dir, [], ifm), protocol, settings=PROTOCOL)
    (outcome,) = outcomes.values()
    return outcome.metrics["top1"]


def _ifm_of(config: Config) -> IFM:
    return kept_ifm(config.model.ifm, config.augment.crop_size_px)


class _Lines:
    """Copies new lines of a run's metrics to the trial's metrics, with a prefix for each name, each line once."""

    def __init__(self, source: Path, target: Path, prefix: str) -> None:
        self.source, self.target, self.prefix = source, target, prefix
        self.copied = sum(line["stage"] == prefix for line in patiently(lambda: reopen(target)))

    def copy(self) -> None:
        new = patiently(lambda: read_lines(self.source))[self.copied :]
        named = [{self.prefix + name: value for name, value in line["values"].items()} for line in new]
        append(
            self.target,
            [{**line, "values": values, "stage": self.prefix} for line, values in zip(new, named, strict=True)],
        )
        self.copied += len(new)


def winner(sweep: Sweep, number: int) -> dict[str, Config]:
    """The configurations of a trial's stages as recipes for `train`, without the trial's run directories."""
    own = {
        "storage.path": sweep.config.storage.path,
        "tracking.run_name": None,
        "train.use_gpu": sweep.config.train.use_gpu,
        "train.cpus_per_worker": sweep.config.train.cpus_per_worker,
    }
    paths = sorted(sweep.trial_dir(number).glob("*/config.yaml"))
    return {path.parent.name: load(path, overrides_of(own)) for path in paths}

"""Runs all trainings of an experiment in parallel processes of one machine, and skips finished ones."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from advise_ray.backend import process_env
from advise_ray.config import DataConfig, load, to_yaml
from advise_ray.errors import UsageError
from advise_ray.experiment import arms
from advise_ray.experiment.arms import IFM_ALONE, Trainings
from advise_ray.experiment.bootstrap import Correct
from advise_ray.experiment.suite import FOLDS, LabelledSet
from advise_ray.storage.atomic import write_whole
from advise_ray.storage.jsonl import append, reopen
from advise_ray.video.pool import hash_manifests

SCRATCH = "scratch"
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Key:
    """Identifies a result.

    Attributes:
        figure: `finetuned`, `fold` (fine-tuning on folds of the training videos, to choose a learning rate), `linear`,
            `knn`, `retrieval`, `pretext`.
        arm: `scratch`, a pretrained arm, or `mean` or `change` for the image model alone.
        labels: number of training videos per class; None: all.
    """

    figure: str
    arm: str
    set: str
    seed: int
    labels: int | None = None
    lr: float | None = None
    fold: int | None = None


@dataclass(frozen=True)
class Experiment:
    """Settings of an experiment.

    Attributes:
        pool: manifests to pretrain on, in addition to the training videos of the sets.
        pretrained: arm → recipe of its pretraining.
        labels: numbers of training videos per class; None: all.
        lrs: learning rates of the fine-tuning. Each arm uses the one that is best on folds of the training videos.
    """

    trainings: Trainings
    sets: tuple[LabelledSet, ...]
    pool: tuple[Path, ...]
    pretrained: Mapping[str, str]
    seeds: int
    labels: tuple[int | None, ...]
    lrs: tuple[float, ...]

    @property
    def arms(self) -> list[str]:
        return [SCRATCH, *self.pretrained]

    def manifest(self, key: Key) -> Path:
        """The manifest with the training and test videos of a fine-tuning."""
        (of,) = [each for each in self.sets if each.name == key.set]
        if key.fold is not None:
            return of.fold(key.seed, key.fold)
        return of.of_seed(key.seed) if key.labels is None else of.few_labels(key.seed, key.labels)

    def pretraining(self, arm: str, seed: int) -> Path:
        """Pretrain an arm, or reuse the finished run; returns the run directory.

        The pretraining uses the pool and the sets' training videos in the seed's split, without labels. It trains on
        all of them and validates on none; its last checkpoint is used.
        """
        manifests = [*self.pool, *(each.of_seed(seed) for each in self.sets)]
        return self.trainings.pretrain(self.pretrained[arm], f"pretrain-{arm}-{seed}", seed, manifests)


class Results:
    """Results by key, stored with one line each in `results.jsonl`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: dict[Key, Any] = {Key(**line["key"]): line["value"] for line in reopen(path)}

    def add(self, key: Key, value: Any) -> None:
        self.held[key] = value
        append(self.path, [{"key": asdict(key), "value": value}])

    def of(self, figure: str, arm: str, seeds: int, labels: int | None = None) -> dict[str, dict[int, Correct]]:
        """Set → seed → test result, for the first `seeds` seeds."""
        found: dict[str, dict[int, Correct]] = {}
        for key, value in self.held.items():
            if (key.figure, key.arm, key.labels) == (figure, arm, labels) and key.seed < seeds:
                found.setdefault(key.set, {})[key.seed] = value
        return found


def run(experiment: Experiment, results: Results, on_progress: Callable[[str], OnProgress]) -> dict[str, float]:
    """Run all unfinished trainings and measurements; returns each arm's learning rate.

    Args:
        on_progress: takes the name of a stage and returns a function of (finished jobs, all jobs).

    Raises:
        UsageError: a set has no usable training or test videos.
        AdviseRayError: a training fails.
    """
    seeds, sets = range(experiment.seeds), [each.name for each in experiment.sets]
    for each in experiment.sets:
        each.write_all(seeds, experiment.labels)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(experiment.trainings.processes, context, initializer=process_env.collect_rarely) as pool:

        def do(stage: str, job: Callable[..., Any], keys: Iterable[Key], *more: Any) -> None:
            wanted = [key for key in keys if key not in results.held]
            futures = {pool.submit(job, experiment, key, *more): key for key in wanted}
            report = on_progress(stage)
            try:
                for done, future in enumerate(as_completed(futures), 1):
                    results.add(futures[future], future.result())
                    report(done, len(wanted))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

        do(
            "pretraining",
            pretrain,
            (Key("pretrained", arm, "", seed) for arm in experiment.pretrained for seed in seeds),
        )
        candidates = [
            Key("fold", arm, name, 0, None, lr, fold)
            for arm in experiment.arms
            for name in sets
            for lr in experiment.lrs
            for fold in range(FOLDS)
        ]
        if len(experiment.lrs) > 1:
            do("choosing learning rates", finetune, candidates)
        chosen = {arm: choose_lr(results, arm, experiment.lrs) for arm in experiment.arms}
        every = [
            Key("finetuned", arm, name, seed, labels)
            for seed in seeds
            for name in sets
            for labels in experiment.labels
            for arm in experiment.arms
        ]
        do("fine-tuning", finetune, every, chosen)
        do("probes", measure, _probes(experiment, sets, seeds))
    return chosen


def _probes(experiment: Experiment, sets: Sequence[str], seeds: Iterable[int]) -> Iterable[Key]:
    for seed in seeds:
        for name in sets:
            yield from (Key("linear", arm, name, seed) for arm in ("mean", "change"))
            for figure in ("knn", "retrieval"):
                yield from (Key(figure, arm, name, seed) for arm in ("mean", *experiment.pretrained))
            yield from (Key("pretext", arm, name, seed) for arm in experiment.pretrained)


def refuse_another(experiment: Experiment, path: Path) -> None:
    """Raise UsageError if the directory has results with other settings. The file `path` records the settings.

    Seeds, numbers of labels and arms can be added.
    """
    every = [*experiment.pool, *(each.manifest for each in experiment.sets)]
    asked = {
        "--manifest, --pool": [[each.name, hash_manifests(DataConfig(manifest=str(each)))] for each in every],
        "--finetune, --set": _settings(experiment.trainings.finetune, experiment.trainings.overrides),
        "--on-folds": any(each.on_folds for each in experiment.sets),
        "--lr": list(experiment.lrs),
        "--finetune-steps": experiment.trainings.finetune_steps,
        "--pretrain-steps": experiment.trainings.pretrain_steps,
    }
    for arm, recipe in experiment.pretrained.items():
        asked[f"arm {arm}"] = _settings(recipe, experiment.trainings.overrides)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    differing = [name for name, value in asked.items() if name in known and known[name] != value]
    if differing:
        raise UsageError(
            f"--out: {path.parent} has results with other values of {', '.join(differing)}; choose another folder"
        )
    write_whole(path, json.dumps(known | asked, indent=2) + "\n")


def _settings(recipe: str, overrides: Sequence[str]) -> str:
    """The recipe as YAML, without what depends on the working directory and the environment."""
    return to_yaml(load(recipe, [*overrides, "storage.path=/", "tracking.uri=null"]))


def choose_lr(results: Results, arm: str, lrs: Sequence[float]) -> float:
    """The learning rate with the best accuracy on held-out training videos, averaged over sets and folds."""
    if len(lrs) == 1:
        return lrs[0]

    def held_out(lr: float) -> float:
        of = [value for key, value in results.held.items() if (key.figure, key.arm, key.lr) == ("fold", arm, lr)]
        return float(np.mean([np.mean(list(correct.values())) for correct in of]))

    return max(sorted(lrs), key=held_out)


def pretrain(experiment: Experiment, key: Key) -> str:
    """Pretrain an arm with a seed; returns the run directory."""
    return str(experiment.pretraining(key.arm, key.seed))


def finetune(experiment: Experiment, key: Key, chosen: Mapping[str, float] | None = None) -> Correct:
    """Run one fine-tuning and test it."""
    lr = key.lr if chosen is None else chosen[key.arm]
    assert lr is not None
    init_from = None if key.arm == SCRATCH else experiment.pretraining(key.arm, key.seed)
    parts = [key.figure, key.set, key.arm, f"seed-{key.seed}"]
    if key.labels is not None:
        parts.append(f"labels-{key.labels}")
    if key.fold is not None:
        parts += [f"lr-{lr:g}", f"fold-{key.fold}"]
    return experiment.trainings.finetuned("-".join(parts), key.seed, experiment.manifest(key), lr, init_from)


def measure(experiment: Experiment, key: Key) -> Correct | dict[str, float]:
    """Measure a result that needs no fine-tuning: a probe, kNN, retrieval or the pretext protocol."""
    manifest, arm = experiment.manifest(key), next(iter(experiment.pretrained), None)
    if key.figure == "linear":
        return experiment.trainings.probe(manifest, key.arm)  # type: ignore[arg-type]
    of_manifest = f"data.manifest={json.dumps(str(manifest))}"
    if key.arm == "mean":
        assert arm is not None
        return arms.judge(experiment.pretraining(arm, 0), key.figure, of_manifest, *IFM_ALONE)  # type: ignore[arg-type]
    run_dir = experiment.pretraining(key.arm, key.seed)
    if key.figure == "pretext":
        return arms.rates(run_dir, manifest)
    return arms.judge(run_dir, key.figure, of_manifest)  # type: ignore[arg-type]

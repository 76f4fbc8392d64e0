"""All trainings of an experiment, side by side in processes of one machine; what is done is found again."""

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
from advise_ray.storage.jsonl import read_lines
from advise_ray.video.pool import hash_manifests

SCRATCH = "scratch"
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Key:
    """What a figure is of.

    Attributes:
        figure: `finetuned`, `fold` (the same on training videos alone, to choose a learning rate), `linear`, `knn`,
            `retrieval`, `pretext`.
        arm: `scratch`, one that was pretrained, or of the image model alone `mean` or `change`.
        labels: training videos of each class; None: all.
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
    """What is asked for.

    Attributes:
        pool: manifests to pretrain on, beside the training videos of the sets.
        pretrained: arm → recipe of its pretraining.
        labels: training videos of each class; None: all.
        lrs: learning rates of fine-tuning, of which each arm gets the one that does best on training folds.
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
        """What a fine-tuning learns from and is tested on."""
        (of,) = [each for each in self.sets if each.name == key.set]
        if key.fold is not None:
            return of.fold(key.seed, key.fold)
        return of.of_seed(key.seed) if key.labels is None else of.few_labels(key.seed, key.labels)

    def pretraining(self, arm: str, seed: int) -> Path:
        """The run of an arm's pretraining, once it is done.

        It trains on the pool and on the training videos of the sets in the seed's split, and sees no label. It
        validates on the test videos once, at its end, so that they choose nothing.
        """
        manifests = [*self.pool, *(each.of_seed(seed) for each in self.sets)]
        return self.trainings.pretrain(self.pretrained[arm], f"pretrain-{arm}-{seed}", seed, manifests)


class Results:
    """Figures by their keys, a line each in `results.jsonl`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = read_lines(path)
        self.held: dict[Key, Any] = {Key(**line["key"]): line["value"] for line in lines}
        # What follows must not be joined to half a line.
        write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))

    def add(self, key: Key, value: Any) -> None:
        self.held[key] = value
        with self.path.open("a") as file:
            file.write(json.dumps({"key": asdict(key), "value": value}) + "\n")

    def of(self, figure: str, arm: str, seeds: int, labels: int | None = None) -> dict[str, dict[int, Correct]]:
        """Set → seed → its test; of the first so many seeds."""
        found: dict[str, dict[int, Correct]] = {}
        for key, value in self.held.items():
            if (key.figure, key.arm, key.labels) == (figure, arm, labels) and key.seed < seeds:
                found.setdefault(key.set, {})[key.seed] = value
        return found


def run(experiment: Experiment, results: Results, on_progress: Callable[[str], OnProgress]) -> dict[str, float]:
    """Everything that is not done yet; returns each arm's learning rate.

    Args:
        on_progress: gives, for the name of a stage, what is called with jobs done and jobs to do.

    Raises:
        UsageError: a set that cannot be learnt from or tested on.
        AdviseRayError: of a training.
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
    """Raise UsageError where the directory holds results of other settings; what they depend on is in `path`.

    Seeds, numbers of labels and arms may be added.
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
    known = json.loads(path.read_text()) if path.exists() else {}
    differing = [name for name, value in asked.items() if name in known and known[name] != value]
    if differing:
        raise UsageError(f"--out: {path.parent} holds results with other {', '.join(differing)}; name another folder")
    write_whole(path, json.dumps(known | asked, indent=2) + "\n")


def _settings(recipe: str, overrides: Sequence[str]) -> str:
    """All of a recipe but where its runs go, which depends on the working directory."""
    return to_yaml(load(recipe, [*overrides, "storage.path=/"]))


def choose_lr(results: Results, arm: str, lrs: Sequence[float]) -> float:
    """The learning rate that recognises most held-out training videos, in the mean over sets and folds."""
    if len(lrs) == 1:
        return lrs[0]

    def held_out(lr: float) -> float:
        of = [value for key, value in results.held.items() if (key.figure, key.arm, key.lr) == ("fold", arm, lr)]
        return float(np.mean([np.mean(list(correct.values())) for correct in of]))

    return max(sorted(lrs), key=held_out)


def pretrain(experiment: Experiment, key: Key) -> str:
    """Of an arm and a seed; returns the run's directory."""
    return str(experiment.pretraining(key.arm, key.seed))


def finetune(experiment: Experiment, key: Key, chosen: Mapping[str, float] | None = None) -> Correct:
    """One fine-tuning and its test."""
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
    """What needs no training of a module."""
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

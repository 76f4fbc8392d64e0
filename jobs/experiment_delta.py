"""Measures whether pretraining on playback rates improves action recognition, over a suite of data sets.

    python jobs/experiment_delta.py --pool footage.parquet --manifest fights.parquet --manifest tricks.parquet \\
        --out runs/delta --seeds 5 --labels-per-class 4,8,16,all

For each seed the script pretrains the temporal module once, on the pool and on the sets' training videos, without
labels. Then it fine-tunes two arms on each set, with all labels and with few labels: the pretrained module, and a
module from scratch. It chooses the learning rate of each arm on training videos. Linear probes measure the image model
alone; kNN and retrieval also measure the embeddings of the pretrained arms. All runs read their clips from one feature
cache, which is made first. `--arm NAME=RECIPE` adds an arm with another pretraining. `--on-folds` tests on held-out
training videos, in order to choose settings. `--rival SET` compares AdViSe with a 3D network that is trained end to
end.

The experiment can be stopped and started again; finished results are kept. The table and the figure are in OUT and in
MLflow.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict
from pathlib import Path

from advise_ray.backend import process_env  # before torch is imported

os.environ.update(process_env.ENVIRONMENT | os.environ)

import click

from advise_ray.cache.cache_plan import plan_cache
from advise_ray.cache.writer import write_cache
from advise_ray.cli import progress
from advise_ray.config import Config, load, recipes, to_yaml
from advise_ray.errors import AdviseRayError, UsageError
from advise_ray.experiment import results_page
from advise_ray.experiment.arms import Trainings
from advise_ray.experiment.repeats import Experiment, OnProgress, Results, refuse_another, run
from advise_ray.experiment.rival import as_table, race
from advise_ray.experiment.suite import read_suite
from advise_ray.tracking import RunTracker

RATES = "1e-3,3e-3"
RESERVED = ("scratch", "pretrained", "mean", "change")
OURS = (
    "seed",
    "optim.lr",
    "data.manifest",
    "data.features",
    "data.val",
    "storage.",
    "tracking.run_name",
    "model.init_from",
)


def _labels(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[int | None, ...]:
    try:
        counts = [None if each.strip() == "all" else int(each) for each in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r}: give numbers and `all`, such as 4,8,16,all") from None
    if any(each is not None and each < 1 for each in counts):
        raise click.BadParameter(f"{text!r}: each number must be at least 1")
    return tuple(sorted(set(counts), key=lambda each: each or float("inf")))


def _arms(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    arms = dict(each.split("=", 1) for each in given if "=" in each)
    if len(arms) < len(given):
        raise click.BadParameter("give NAME=RECIPE, and use each name only once")
    for name in arms:
        if name in RESERVED or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise click.BadParameter(
                f"{name!r}: a name can have letters, digits, `_`, `.` and `-`; reserved names: {', '.join(RESERVED)}"
            )
    return arms


def _overrides(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    ours = [each for each in given if each.partition("=")[0].startswith(OURS)]
    if ours:
        raise click.BadParameter(f"{ours[0]}: the experiment itself sets {', '.join(OURS)}")
    return given


def _lrs(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(each) for each in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}: give numbers, such as {RATES}") from None


manifest = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--manifest",
    "manifests",
    type=manifest,
    multiple=True,
    required=True,
    help="Manifest of a labelled set; repeatable.",
)
@click.option("--pool", type=manifest, multiple=True, help="Manifest to pretrain on; needs no labels; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory for the experiment.")
@click.option("--pretrain", default="pretrain_footage", show_default=True, help="Recipe of the arm `pretrained`.")
@click.option("--arm", "arms", multiple=True, callback=_arms, metavar="NAME=RECIPE", help="Additional arm; repeatable.")
@click.option("--finetune", default="finetune_footage", show_default=True, help="Recipe of the fine-tuning.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Number of seeds.")
@click.option(
    "--labels-per-class",
    "labels",
    default="all",
    show_default=True,
    callback=_labels,
    help="Numbers of labelled training videos per class, such as 4,8,16,all.",
)
@click.option(
    "--lr", "lrs", default=RATES, show_default=True, callback=_lrs, help="Learning rates to choose from for each arm."
)
@click.option(
    "--finetune-steps", type=click.IntRange(1), default=150, show_default=True, help="Steps of each fine-tuning."
)
@click.option("--pretrain-steps", type=click.IntRange(1), help="Pretraining steps, instead of the recipe's epochs.")
@click.option("--on-folds", is_flag=True, help="Test on folds of the training videos, in order to choose settings.")
@click.option(
    "--features", type=click.Path(path_type=Path), help="Feature cache of all videos.  [default: OUT/features]"
)
@click.option("--rival", metavar="SET", help="Compare AdViSe with an R3D-50 on this set: minutes to hours on a CPU.")
@click.option("--processes", type=click.IntRange(1), help="Number of parallel trainings.  [default: cores, at most 8]")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    callback=_overrides,
    metavar="KEY=VALUE",
    help="Setting for all runs; repeatable.",
)
def main(
    manifests: tuple[Path, ...],
    pool: tuple[Path, ...],
    out: Path,
    pretrain: str,
    arms: dict[str, str],
    finetune: str,
    seeds: int,
    labels: tuple[int | None, ...],
    lrs: tuple[float, ...],
    finetune_steps: int,
    pretrain_steps: int | None,
    on_folds: bool,
    features: Path | None,
    rival: str | None,
    processes: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Measure how much pretraining improves accuracy, for each set and over all sets, with confidence intervals."""
    started_s = time.monotonic()
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    try:
        pretrained = {name: str(recipes.find(each)) for name, each in {"pretrained": pretrain, **arms}.items()}
        trainings = Trainings(
            finetune=str(recipes.find(finetune)),
            out=out,
            features=(features or out / "features").absolute(),
            overrides=(*overrides, "tracking.experiment=delta"),
            finetune_steps=finetune_steps,
            pretrain_steps=pretrain_steps,
            processes=processes or min(8, len(os.sched_getaffinity(0))),
        )
        sets = tuple(read_suite([path.absolute() for path in manifests], out / "manifests", on_folds=on_folds))
        raced = [each for each in sets if each.name == rival]
        if rival is not None and not raced:
            raise UsageError(f"--rival: no set {rival!r}; the sets are {', '.join(each.name for each in sets)}")
        experiment = Experiment(
            trainings, sets, tuple(path.absolute() for path in pool), pretrained, seeds, labels, lrs
        )
        refuse_another(experiment, out / "experiment.json")
        every = [str(path.absolute()) for path in (*pool, *manifests)]
        config = load(pretrained["pretrained"], [*overrides, f"data.manifest={json.dumps(every)}"])
        with progress.counting("encoding videos") as on_progress:
            write_cache(plan_cache(config, str(trainings.features)), on_progress)
        results = Results(out / "results.jsonl")
        chosen = run(experiment, results, _told)
        laps = [lap for each in raced for lap in race(trainings, each, pretrained["pretrained"], chosen["pretrained"])]
    except AdviseRayError as error:
        raise click.ClickException(str(error)) from None
    summary = results_page.summarise(experiment, results, chosen)
    written = {**summary, "wall_s": round(time.monotonic() - started_s, 1)}
    table = results_page.as_table(summary, [each.name for each in sets])
    if laps:
        written["rival"] = [asdict(lap) | {"wall_s": lap.wall_s} for lap in laps]
        table += "\n" + as_table(laps)
    (out / "delta.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    (out / "delta.md").write_text(table, encoding="utf-8")
    results_page.draw(summary, experiment, out / "delta.png")
    click.echo(table)
    config = load(pretrained["pretrained"], [*trainings.overrides, f"storage.path={json.dumps(str(out))}"])
    _record(config, out, dict(results_page.figures(summary, laps)))


def _told(stage: str) -> OnProgress:
    def on_progress(done: int, total: int) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')} {stage}: {done} of {total}", err=True)

    return on_progress


def _record(config: Config, out: Path, figures: dict[str, float]) -> None:
    """Log the whole experiment as one MLflow run."""
    run_dir = out / "delta"
    run_dir.mkdir(exist_ok=True)
    (run_dir / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    tracker = RunTracker(config, run_dir)
    tracker.start(device="cpu")
    tracker.finish(
        "FINISHED",
        [out / name for name in ("delta.md", "delta.json", "delta.png")],
        figures,
    )


if __name__ == "__main__":
    main()

"""The command `advise-ray init`: writes a recipe that fits the videos and the machine."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advise_ray.cli.group import main
from advise_ray.cli.shared import UserPath, estimate, load, workers_and_gpu
from advise_ray.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from advise_ray.config import Config
    from advise_ray.cost.budget import Length
    from advise_ray.dataset.suggestion import Choice

SECTIONS = {"clips": "data.clip", "frames": "augment", "steps": "train"}
"""For each choice, the section that gets its reason as a comment; other choices comment on their first key."""


class _Hours(click.ParamType):
    """A finite number above 0."""

    name = "H"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        hours: float = click.FLOAT.convert(value, param, ctx)
        if not (math.isfinite(hours) and hours > 0):
            self.fail(f"{value} is not a number of hours above 0", param, ctx)
        return hours


@main.command()
@click.option("--videos", required=True, metavar="DIR_OR_MANIFEST", help="A folder or URL of videos, or a manifest.")
@click.option("--out", type=UserPath(), required=True, help="Recipe to write (YAML).")
@click.option("--labels", "labelled", is_flag=True, help="Write a recipe that learns the videos' classes.")
@click.option("--hours", type=_Hours(), help="Time for the training, and for a feature cache if it saves time.")
@click.option("--rates", type=UserPath(), help="YAML with another machine's throughput; default: measure this machine.")
def init(videos: str, out: Path, labelled: bool, hours: float | None, rates: Path | None) -> None:
    """Write a recipe, with comments, that fits the videos and the machine, and print the reasons for its settings.

    A folder is indexed first, as by `train --videos`. Without --labels, the recipe pretrains on playback rates.
    """
    from advise_ray.cli import progress
    from advise_ray.config import commented
    from advise_ray.cost.predict import read_rates
    from advise_ray.dataset import suggestion
    from advise_ray.storage.atomic import write_whole

    _refuse_existing(out)
    machine = read_rates(rates) if rates is not None else None
    manifest, table = _index(videos, labelled)
    task = "action" if labelled else "prp"
    workers, use_gpu = (machine.workers, machine.use_gpu) if machine is not None else workers_and_gpu()
    choices = suggestion.suggest(table, task, most_workers=workers, use_gpu=use_gpu)
    config = _config(choices, task, manifest)
    length = _length(config, out, hours, rates)
    if length is not None and length.epochs != config.train.epochs:
        choices = suggestion.suggest(table, task, most_workers=workers, use_gpu=use_gpu, epochs=length.epochs)
        config = _config(choices, task, manifest)
    steps = _next_steps(out, cached=length is not None and length.cached)
    text = commented(config, _comments(choices, length, task), _header(videos, table, steps, task))
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, text)
    for choice in choices:
        progress.tell(f"{choice.name}: {choice.reason}")
    if length is not None:
        progress.tell(f"time: {length.reason}")
    for line in (*steps, *_hints(table, manifest, labelled)):
        progress.tell(f"next: {line}")
    click.echo(str(out))


def _refuse_existing(out: Path) -> None:
    from advise_ray.storage.atomic import refuse_unwritable

    refuse_unwritable(out, "--out")
    if out.exists():
        raise UsageError(f"--out: {out} exists and may have your changes; give another name, or delete it")


def _index(videos: str, labelled: bool) -> tuple[Path, pa.Table]:
    """The manifest of the videos. A folder without the labels that are needed is refused before its files are read."""
    from advise_ray import dataset
    from advise_ray.cli import progress
    from advise_ray.config import Config
    from advise_ray.storage import remote
    from advise_ray.video.annotations import read_folder
    from advise_ray.video.manifest import read_manifest
    from advise_ray.video.splits import named_classes

    location = remote.local_or_url(videos)
    if location.endswith(".parquet"):
        manifest = Path(location)
    else:
        if labelled:
            listing = read_folder(location)
            _refuse_unlabelled(listing.classes, "; ".join(listing.notes))
        with progress.counting("reading videos") as on_progress:
            manifest = dataset.prepare(location, Path(Config().storage.path), on_progress=on_progress)
    table = read_manifest(manifest)
    if labelled:
        _refuse_unlabelled(named_classes(table), "")
    return manifest, table


def _refuse_unlabelled(classes: list[str], why: str) -> None:
    if not classes:
        how = why or "put them into folders named by class, or index them with the data set's lists"
        raise UsageError(f"--labels: the videos have no labels: {how}")
    if len(classes) == 1:
        raise UsageError(f"--labels: all labels are {classes[0]!r}; a recipe for labels needs two classes or more")


def _config(choices: list[Choice], task: str, manifest: Path) -> Config:
    from advise_ray.config import overrides_of
    from advise_ray.dataset.suggestion import BASES, settings_of

    settings = settings_of(choices, task) | {"data.manifest": str(manifest)}
    return load(BASES[task], tuple(overrides_of(settings)))


def _length(config: Config, out: Path, hours: float | None, rates: Path | None) -> Length | None:
    """The epochs for the budget, live or cached. None if the speed of this machine cannot be measured."""
    from advise_ray.cache.sizes import free_bytes
    from advise_ray.cli import progress
    from advise_ray.cost.budget import choose_length
    from advise_ray.training.plan import make_plan

    plan = make_plan(config)
    progress.waiting("measuring the speed of this machine" if rates is None else None)
    try:
        cost = estimate(plan, rates)
    finally:
        progress.waiting(None)
    if cost is None:
        return None
    free = free_bytes(str(out.absolute().parent))
    return choose_length(cost, usual_epochs=config.train.epochs, budget_hours=hours, free_bytes=free)


def _next_steps(out: Path, *, cached: bool) -> list[str]:
    """The commands that train the recipe."""
    train = f"advise-ray train --config {shlex.quote(str(out))}"
    if not cached:
        return [train]
    features = str(out.with_name(f"{out.stem}_features"))
    cache = f"advise-ray cache --config {shlex.quote(str(out))} --out {shlex.quote(features)}"
    return [cache, f"{train} --set {shlex.quote(f'data.features={features}')}"]


def _hints(table: pa.Table, manifest: Path, labelled: bool) -> list[str]:
    from advise_ray.video.splits import named_classes

    if labelled:
        return ["to start from a pretrained module, set model.init_from to the directory of its run"]
    if (count := len(named_classes(table))) < 2:
        return []
    command = f"advise-ray init --videos {shlex.quote(str(manifest))} --labels --out finetune.yaml"
    return [f"the videos have {count} classes; for a recipe that learns them: {command}"]


def _comments(choices: list[Choice], length: Length | None, task: str) -> dict[str, str]:
    from advise_ray.dataset.suggestion import BASES

    reasons = {key: "" for choice in choices for key in choice.settings}
    reasons |= {SECTIONS.get(choice.name, next(iter(choice.settings))): _sentence(choice.reason) for choice in choices}
    if length is not None:
        reasons["cache"] = _sentence(length.reason)
    model = f"As in the recipe {BASES[task]}. Its model was chosen on real videos."
    if task == "prp":
        return reasons | {"task": "Predicts the playback rate; this needs no labels.", "model": model}
    return reasons | {
        "task": "Learns the classes of the manifest.",
        "augment.flip": "Set this to false if classes differ in left and right, such as directions of a movement.",
        "model": model,
        "model.init_from": "To start from a pretrained temporal module: the directory of its run.",
    }


def _header(videos: str, table: pa.Table, steps: list[str], task: str) -> list[str]:
    from advise_ray.dataset.suggestion import BASES
    from advise_ray.dataset.summary import describe

    facts = describe(table)
    lengths, fps, size = facts["duration_s"], next(iter(facts["fps"])), next(iter(facts["sizes_px"]))
    return [
        f"Written by `advise-ray init` for the {table.num_rows} videos of {videos}: {facts['hours']:.3g} hours, from "
        f"{lengths['min']:g} to {lengths['max']:g} s (median {lengths['median']:g} s), most often {fps} frames/s and "
        f"{size} px.",
        "",
        *(f"  {step}" for step in steps),
        "",
        f"Settings without a comment are those of the recipe {BASES[task]}.",
    ]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."

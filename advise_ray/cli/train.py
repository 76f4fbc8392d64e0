"""The command `advise-ray train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advise_ray.cli.cluster_option import cluster_option
from advise_ray.cli.group import main
from advise_ray.cli.shared import (
    UserPath,
    checked_by,
    config_option,
    estimate,
    json_option,
    load,
    rates_option,
    set_option,
    show_outcome,
    show_with_notes,
    workers_and_gpu,
)
from advise_ray.config import flatten, overrides_of

if TYPE_CHECKING:
    from advise_ray.config import Config
    from advise_ray.training.run_result import RunResult

TWO_DATA_SETS = "--videos and data.manifest are two data sets; give only one"


def _refuse_misuse(
    *,
    recipe: str | None,
    videos: str | None,
    run_dir: Path | None,
    dry_run: bool,
    rates: Path | None,
    **_: Any,
) -> None:
    if run_dir is not None:
        if recipe is not None or videos is not None:
            raise click.UsageError("--resume uses the run's own configuration; remove --config and --videos")
        if dry_run:
            raise click.UsageError(f"--resume has no --dry-run; use --config {run_dir / 'config.yaml'} --dry-run")
    elif rates is not None and not dry_run:
        raise click.UsageError("--rates needs --dry-run")


@main.command()
@config_option
@set_option
@click.option("--videos", metavar="DIR_OR_URL", help="Train on this folder of videos; labels are not needed.")
@click.option(
    "--resume",
    "run_dir",
    type=UserPath(),
    help="Continue this run. --set can change paths, resources and epochs.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and the predicted time; write nothing.")
@rates_option
@json_option
@checked_by(_refuse_misuse)
@cluster_option
def train(
    recipe: str | None,
    overrides: tuple[str, ...],
    videos: str | None,
    run_dir: Path | None,
    dry_run: bool,
    rates: Path | None,
    as_json: bool,
) -> None:
    """Train a temporal module.

    Without --config, the settings are chosen for the videos, see `advise-ray init`. Without --videos too, the
    quickstart recipe trains on synthesized videos.
    """
    from advise_ray.cli import progress

    if run_dir is not None:
        from advise_ray.backend import session

        session.connect_ahead()
        from advise_ray.training.trainer import resume

        with progress.training() as on_line:
            result = resume(run_dir, overrides, on_line=on_line)
        _print_result(result, as_json)
        return
    config = _with_manifest(recipe, overrides, videos, dry_run)
    if not dry_run:
        from advise_ray.backend import session

        session.connect_ahead()
    if dry_run:
        from advise_ray.training.plan import make_plan

        plan = make_plan(config)
        show_with_notes(plan.summary() | {"cost": estimate(plan, rates)}, as_json)
        return
    from advise_ray.training.trainer import train as run

    with progress.training() as on_line:
        result = run(config, on_line=on_line)
    _print_result(result, as_json)


def _with_manifest(recipe: str | None, overrides: tuple[str, ...], videos: str | None, dry_run: bool) -> Config:
    """Return the configuration; write a manifest of `--videos`, or of synthesized videos if no data set is given."""
    if recipe is None and videos is not None:
        return _suited(overrides, videos, dry_run)
    config = load(recipe or "quickstart", overrides)
    if config.data.manifest is not None:
        if videos is not None:
            raise click.UsageError(TWO_DATA_SETS)
        return config
    if videos is None and recipe is not None:
        return config  # the planner reports that the manifest is missing
    manifest = _prepare(config, videos, dry_run)
    return load(recipe or "quickstart", (*overrides, *overrides_of({"data.manifest": str(manifest)})))


def base_of(overrides: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The recipe of `train --videos` before settings are chosen, and overrides that come before the user's."""
    from advise_ray.dataset.suggestion import BASES

    given = {key.strip(): value.strip() for key, _, value in (override.partition("=") for override in overrides)}
    by_frames = given.get("data.clip.frame_stride", "null") != "null"
    ahead = ("model.init_from=null", *(("data.clip.sample_fps=null",) if by_frames else ()))
    return BASES.get(given.get("task", "prp"), BASES["prp"]), ahead


def _suited(overrides: tuple[str, ...], videos: str, dry_run: bool) -> Config:
    """Return the configuration that `init` would choose for the videos, with the user's overrides, and say why."""
    from advise_ray.cli import progress
    from advise_ray.dataset.suggestion import settings_of, suggest
    from advise_ray.video.manifest import read_manifest

    base, ahead = base_of(overrides)
    config = load(base, (*ahead, *overrides))
    if config.data.manifest is not None:
        raise click.UsageError(TWO_DATA_SETS)
    manifest = _prepare(config, videos, dry_run)
    num_workers, use_gpu = workers_and_gpu()
    choices = suggest(read_manifest(manifest), config.task, most_workers=num_workers, use_gpu=use_gpu)
    settings = overrides_of(settings_of(choices, config.task) | {"data.manifest": str(manifest)})
    config = load(base, (*settings, *ahead, *overrides))
    values = flatten(config)
    for choice in choices:
        changed = ", ".join(key for key, value in choice.settings.items() if values[key] != value)
        progress.tell(f"{choice.name}: {choice.reason}" + (f"; changed by --set: {changed}" if changed else ""))
    if config.data.features is None:
        progress.tell(
            f"features: not cached; `advise-ray init --videos {shlex.quote(str(manifest))} --out recipe.yaml` writes "
            "such settings to a recipe, and says whether a cache saves time"
        )
    return config


def _prepare(config: Config, videos: str | None, dry_run: bool) -> Path:
    """Write the manifest of the videos, or of synthesized videos."""
    if dry_run:
        raise click.UsageError("--dry-run needs data.manifest; make one with `advise-ray data index`")
    from advise_ray import dataset
    from advise_ray.cli import progress

    with progress.counting("reading videos") as on_progress:
        return dataset.prepare(videos, Path(config.storage.path), on_progress=on_progress)


def _print_result(result: RunResult, as_json: bool) -> None:
    from advise_ray.cli import progress

    show_outcome(result, as_json, progress.result_table(result), f"advise-ray train --resume {result['run_dir']}")
    if not as_json:
        progress.tell_next(Path(result["run_dir"]), result["status"], result["bound_by"])

"""The command `advise-ray train`."""

from __future__ import annotations

import json
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
)

if TYPE_CHECKING:
    from advise_ray.config import Config
    from advise_ray.training.run_result import RunResult


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
    """Train a temporal module. Without --config: the quickstart recipe, on synthesized videos if you give no videos."""
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
    config = load(recipe or "quickstart", overrides)
    if config.data.manifest is not None:
        if videos is not None:
            raise click.UsageError("--videos and data.manifest are two data sets; give only one")
        return config
    if videos is None and recipe is not None:
        return config  # the planner reports that the manifest is missing
    if dry_run:
        raise click.UsageError("--dry-run needs data.manifest; make one with `advise-ray data index`")
    from advise_ray import dataset
    from advise_ray.cli import progress

    with progress.counting("reading videos") as on_progress:
        manifest = dataset.prepare(videos, Path(config.storage.path), on_progress=on_progress)
    return load(recipe or "quickstart", (*overrides, f"data.manifest={json.dumps(str(manifest), ensure_ascii=False)}"))


def _print_result(result: RunResult, as_json: bool) -> None:
    from advise_ray.cli import progress

    show_outcome(result, as_json, progress.result_table(result), f"advise-ray train --resume {result['run_dir']}")

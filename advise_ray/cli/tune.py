"""The command `advise-ray tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advise_ray.cli.cluster_option import cluster_option
from advise_ray.cli.group import main
from advise_ray.cli.shared import UserPath, checked_by, config_option, json_option, load, set_option, show_outcome

if TYPE_CHECKING:
    from advise_ray.sweep.sweep_result import SweepResult


def _refuse_misuse(*, recipe: str | None, overrides: tuple[str, ...], sweep_dir: Path | None, **_: Any) -> None:
    if sweep_dir is not None and (recipe is not None or overrides):
        raise click.UsageError("--resume uses the sweep's own configuration; remove --config and --set")
    if sweep_dir is None and recipe is None:
        raise click.UsageError("--config: give a recipe with a `search` section, such as sweep_spatial")


@main.command()
@config_option
@set_option
@click.option("--resume", "sweep_dir", type=UserPath(), help="Continue this sweep.")
@json_option
@checked_by(_refuse_misuse)
@cluster_option
def tune(recipe: str | None, overrides: tuple[str, ...], sweep_dir: Path | None, as_json: bool) -> None:
    """Search for the best settings. The recipe needs the sections `search` and `tune`; trials share a feature cache."""
    from advise_ray.backend import session
    from advise_ray.cli import progress

    if sweep_dir is not None:
        session.connect_ahead()
        from advise_ray.sweep.tuner import resume

        with progress.results_alone():
            result = resume(sweep_dir, on_event=progress.tell)
        _print_result(result, as_json)
        return
    config = load(recipe, overrides)
    from advise_ray.sweep.tuner import tune as run

    with progress.results_alone():
        result = run(config, on_event=progress.tell)
    _print_result(result, as_json)


def _print_result(result: SweepResult, as_json: bool) -> None:
    from advise_ray.cli import progress

    show_outcome(result, as_json, progress.sweep_table(result), f"advise-ray tune --resume {result['sweep_dir']}")

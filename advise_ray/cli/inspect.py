"""The commands `advise-ray models`, `config`, `status` and `doctor`: they show choices and state."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import get_args

import click

from advise_ray.cli.group import main
from advise_ray.cli.shared import UserPath, config_option, json_option, load, set_option, show_page
from advise_ray.errors import AdviseRayError


@main.command()
@json_option
def models(as_json: bool) -> None:
    """List the temporal modules and the image models: weights, parameters, features, and grid size at 224 px."""
    from advise_ray.config import TMMConfig
    from advise_ray.model.catalogue import IMAGE_MODELS, weights_are_here

    rows = [{**vars(model), "here": weights_are_here(model)} for model in IMAGE_MODELS]
    modules = get_args(TMMConfig.model_fields["arch"].annotation)
    if as_json:
        click.echo(json.dumps({"temporal_modules": modules, "image_models": rows}))
        return
    click.echo(f"model.tmm.arch: {', '.join(modules)}\n")
    click.echo(f"{'model.ifm.name':<38} {'model.ifm.weights':<42} {'params':>8} {'features':>9} {'grid':>6}  here")
    for row in rows:
        size = f"{row['parameters_m']:.1f} M"
        grid = f"{row['grid_size']}×{row['grid_size']}"
        here = "yes" if row["here"] else "no"
        click.echo(f"{row['name']:<38} {row['weights']:<42} {size:>8} {row['feature_dim']:>9} {grid:>6}  {here}")


@main.group()
def config() -> None:
    """Show the configuration: the values of a recipe, or all keys."""


@config.command("show")
@config_option
@set_option
def show_config(recipe: str | None, overrides: tuple[str, ...]) -> None:
    """Print the resolved configuration (YAML). Without --config: the defaults."""
    from advise_ray.config import to_yaml

    click.echo(to_yaml(load(recipe, overrides)), nl=False)


@config.command()
@click.option("--markdown", is_flag=True, help="Print a reference table instead of a JSON schema.")
def schema(markdown: bool) -> None:
    """Print the schema of the configuration (JSON Schema)."""
    from advise_ray import config as configuration

    if markdown:
        click.echo(configuration.reference(), nl=False)
    else:
        click.echo(json.dumps(configuration.Config.model_json_schema(), indent=2))


@main.command()
@click.argument("run_dir", metavar="RUN", type=UserPath())
@json_option
def status(run_dir: Path, as_json: bool) -> None:
    """Show the state of a running or ended run: epoch, clips/s, data wait, nodes, time left, and the bottleneck."""
    from advise_ray.cli import progress
    from advise_ray.training.status import read

    run_dir = run_dir.absolute()
    found = read(run_dir)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(progress.status_table(found, run_dir))
    progress.tell_next(run_dir, found["status"], found["bound_by"])
    show_page(found)


@main.command()
@set_option
@json_option
def doctor(overrides: tuple[str, ...], as_json: bool) -> None:
    """Check this machine: versions, devices, decoders, weights, tracking, disk, shared memory."""
    from advise_ray.doctor import examine

    checks = examine(load(None, overrides))
    if as_json:
        click.echo(json.dumps({check.name: {"ok": check.ok, "found": check.found} for check in checks}))
    else:
        for check in checks:
            click.echo(f"{'ok     ' if check.ok else 'PROBLEM'} {check.name:<16} {check.found}")
    if not all(check.ok for check in checks):
        sys.exit(AdviseRayError.exit_code)

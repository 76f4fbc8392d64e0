"""`advise-ray train`, and the commands about models, settings and the machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from advise_ray.cli.group import main
from advise_ray.cli.shared import config_option, json_option, load, set_option, show
from advise_ray.errors import AdviseRayError

if TYPE_CHECKING:
    from advise_ray.config import Config


@main.command()
@config_option
@set_option
@click.option("--videos", metavar="DIR_OR_URL", help="Train on this folder of videos; no labels needed.")
@click.option("--resume", "run_dir", type=click.Path(path_type=Path), help="Go on with this run.")
@click.option("--dry-run", is_flag=True, help="Say what would happen; start nothing, write nothing.")
@json_option
def train(
    recipe: str | None,
    overrides: tuple[str, ...],
    videos: str | None,
    run_dir: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train a temporal module. Without --config: the quickstart recipe, on synthesized videos if none are given."""
    from advise_ray import progress

    if run_dir is not None:
        if recipe is not None or overrides or videos is not None:
            raise click.UsageError("--resume goes on with the run's own configuration; it takes no other")
        if dry_run:
            raise click.UsageError(f"--resume has no --dry-run; use --config {run_dir / 'config.yaml'} --dry-run")
        from advise_ray.training.trainer import resume

        with progress.training() as on_line:
            result = resume(run_dir, on_line=on_line)
        _print_result(result, as_json)
        return
    config = _with_manifest(recipe, overrides, videos, dry_run)
    if dry_run:
        from advise_ray.training.plan import make_plan

        _print_plan(make_plan(config).summary(), as_json)
        return
    from advise_ray.training.trainer import train as run

    with progress.training() as on_line:
        result = run(config, on_line=on_line)
    _print_result(result, as_json)


def _with_manifest(recipe: str | None, overrides: tuple[str, ...], videos: str | None, dry_run: bool) -> Config:
    """The configuration, with a manifest made of `--videos`, or of synthesized ones where nothing else is named."""
    config = load(recipe or "quickstart", overrides)
    if config.data.manifest is not None:
        if videos is not None:
            raise click.UsageError("--videos and data.manifest name two data sets; give one")
        return config
    if videos is None and recipe is not None:
        return config  # planning says what is missing
    if dry_run:
        raise click.UsageError("--dry-run needs data.manifest; make one with `advise-ray data index`")
    from advise_ray import dataset, progress

    with progress.counting("reading videos") as on_progress:
        manifest = dataset.prepare(videos, Path(config.storage.path), on_progress=on_progress)
    return load(recipe or "quickstart", (*overrides, f"data.manifest={json.dumps(str(manifest), ensure_ascii=False)}"))


def _print_plan(summary: dict[str, Any], as_json: bool) -> None:
    notes = summary["notes"]
    show(summary if as_json else {name: value for name, value in summary.items() if name != "notes"}, as_json)
    if not as_json:
        for note in notes:
            click.echo(f"note: {note}", err=True)


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result))
        return
    from advise_ray import progress

    click.echo(progress.result_table(result))
    click.echo(f"MLflow UI: {result['mlflow_ui']}", err=True)
    if not result["tracking_complete"]:
        click.echo(f"MLflow missed a part; log it with: advise-ray train --resume {result['run_dir']}", err=True)


@main.command()
@json_option
def models(as_json: bool) -> None:
    """List temporal modules, and image models with their weights' tag, size, features and grid at 224 px."""
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
    """The configuration: what a recipe resolves to, and every key there is."""


@config.command("show")
@config_option
@set_option
def show_config(recipe: str | None, overrides: tuple[str, ...]) -> None:
    """Print the resolved configuration (YAML); without --config the defaults."""
    from advise_ray.config import to_yaml

    click.echo(to_yaml(load(recipe, overrides)), nl=False)


@config.command()
@click.option("--markdown", is_flag=True, help="A reference table instead of a JSON schema.")
def schema(markdown: bool) -> None:
    """Print the schema of the configuration (JSON Schema)."""
    from advise_ray import config as configuration

    if markdown:
        click.echo(configuration.reference(), nl=False)
    else:
        click.echo(json.dumps(configuration.Config.model_json_schema(), indent=2))


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

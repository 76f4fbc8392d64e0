"""Shared by the commands: options, loading the configuration, and printing results."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from advise_ray.config import Config
    from advise_ray.cost.predict import Cost
    from advise_ray.training.plan import Plan


class UserPath(click.Path):
    """A path that may begin with `~`, which shells do not expand after `--out=` or in quotes."""

    def __init__(self, *, file_okay: bool = True) -> None:
        super().__init__(file_okay=file_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(os.path.expanduser(value), param, ctx)  # noqa: PTH111 (Path's own may raise)


config_option = click.option(
    "--config", "recipe", metavar="FILE", help="Recipe (YAML), or the name of a shipped recipe."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe; repeatable."
)
rates_option = click.option(
    "--rates", type=UserPath(), help="Only with --dry-run: YAML with another machine's throughput."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print only one JSON object on stdout.")


def checked_by(check: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that checks a command's options before the command runs or a cluster is started for it."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def checked(**params: Any) -> None:
            check(**params)
            command(**params)

        return checked

    return decorate


def load(recipe: str | None, overrides: tuple[str, ...]) -> Config:
    """Load a recipe (a file or the name of a shipped recipe) with overrides; without a recipe, the defaults."""
    from advise_ray import config as configuration
    from advise_ray.config import recipes

    return configuration.load(recipes.find(recipe) if recipe is not None else None, overrides)


def workers_and_gpu() -> tuple[int, bool]:
    """Return the number of workers that suits this machine, one for each GPU, and whether it has GPUs."""
    from advise_ray.backend import session

    gpus = int(session.available_gpus())
    return max(1, gpus), gpus > 0


def estimate(plan: Plan, rates: Path | None) -> Cost | None:
    """Predict the cost of a plan with the throughput in a file, or measured on this machine.

    If it cannot be measured, print the reason and return None.
    """
    from advise_ray.cost import measure, predict
    from advise_ray.errors import TrainingError

    try:
        return measure.estimate(plan, predict.read_rates(rates) if rates is not None else None)
    except TrainingError as error:
        click.echo(f"note: no cost is predicted: {error}", err=True)
        return None


def show(values: Mapping[str, Any], as_json: bool) -> None:
    """Print a result as one JSON object, or as a line for each value."""
    if as_json:
        click.echo(json.dumps(values))
        return
    for name, value in values.items():
        if name == "cost":
            _show_cost(value)
        else:
            click.echo(f"{name.replace('_', ' ')}: {_readable(value)}")


def show_with_notes(summary: Mapping[str, Any], as_json: bool) -> None:
    """Print a result; print its `notes` to stderr."""
    notes = summary["notes"]
    show(summary if as_json else {name: value for name, value in summary.items() if name != "notes"}, as_json)
    if not as_json:
        for note in notes:
            click.echo(f"note: {note}", err=True)


def show_outcome(result: Mapping[str, Any], as_json: bool, table: str, resume: str) -> None:
    """Print the result of a run or a sweep, its page in MLflow, and how to log what MLflow has missed."""
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(table)
    show_page(result)
    if not result["tracking_complete"]:
        click.echo(f"MLflow did not record everything; to record the rest: {resume}", err=True)


def show_page(result: Mapping[str, Any]) -> None:
    """Print the page of a run or a sweep in the MLflow UI, and the command that serves it if there is no server."""
    from advise_ray.cli import progress

    page, served = result.get("mlflow_link"), result["mlflow_ui"]
    progress.tell(f"MLflow UI: {page or served}")
    if table := result.get("mlflow_table"):
        progress.tell(f"all runs: {table}")
    if page and not served.startswith("http"):
        progress.tell(f"its server, unless it runs: {served}")


def _show_cost(cost: Cost | None) -> None:
    if cost is None:
        return
    click.echo(f"predicted, live: {cost['live_hours']:.3g} h ({cost['live_epoch_s']:.3g} s per epoch)")
    click.echo(f"predicted, cached: {cost['cached_hours']:.3g} h ({cost['cached_epoch_s']:.3g} s per epoch)")
    size = f"{cost['cache_bytes'] / 1e9:.3g} GB"
    first = cost["cache_pays_from_epoch"]
    pays = f"it saves time from epoch {first} on" if first else "it never saves time"
    click.echo(f"predicted, to write the whole cache: {cost['cache_hours']:.3g} h and {size}; {pays}")
    click.echo(f"decode cores that keep one worker busy, live: {cost['decode_cores_per_worker']:.2g}")
    click.echo(f"predicted from this throughput: {_readable(cost['rates'])}")


def _readable(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_readable(inner)}" for name, inner in value.items()) or "none"
    return "none" if value is None else str(value)

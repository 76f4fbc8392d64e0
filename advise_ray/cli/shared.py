"""What the commands share: options, loading a configuration, printing a result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from advise_ray.config import Config

config_option = click.option(
    "--config", "recipe", metavar="FILE", help="A recipe (YAML), or the name of a shipped one."
)
set_option = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key; repeatable.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")


def load(recipe: str | None, overrides: tuple[str, ...]) -> Config:
    """The configuration of a recipe, by file or by shipped name, with overrides; without one, of the defaults."""
    from advise_ray import config as configuration
    from advise_ray import recipes

    return configuration.load(recipes.find(recipe) if recipe is not None else None, overrides)


def show(values: dict[str, Any], as_json: bool) -> None:
    """Print a result: one JSON object, or a line for each value."""
    if as_json:
        click.echo(json.dumps(values))
    else:
        for name, value in values.items():
            click.echo(f"{name.replace('_', ' ')}: {_readable(value)}")


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_readable(inner)}" for name, inner in value.items()) or "none"
    return "none" if value is None else str(value)

"""Loads a recipe and `--set` overrides into a `Config`, or reports all of their problems at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from advise_ray.config.keys import fields, unknown_key
from advise_ray.config.reading import read_tree, read_value
from advise_ray.config.schema import Config
from advise_ray.errors import ConfigError

INFERENCE = (
    "train.num_workers=1",
    "train.cpus_per_worker=null",
    "train.use_gpu=null",
    "data.num_decode_actors=null",
    "data.cpus_per_decode_actor=null",
)
"""Overrides of a run's configuration that unset the processes of its training. Inference may run on another machine or
cluster, and uses what is there."""


def to_yaml(config: Config) -> str:
    """Return the resolved configuration as YAML; `load` reads it back to an equal `Config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def load(recipe: Path | str | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML recipe, apply `key=value` overrides in order and validate.

    Raises:
        ConfigError: The recipe or the overrides are invalid. The error has one line for each problem.
    """
    tree, problems = _read_recipe(Path(recipe)) if recipe is not None else ({}, [])
    for override in overrides:
        problems += _apply(tree, override)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems += [line for detail in error.errors() for line in _describe(detail)]
    if problems:
        raise ConfigError(problems)
    return config


def _read_recipe(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        tree, problems = read_tree(path.read_text(encoding="utf-8"))
    except OSError as error:
        return {}, [f"{path}: cannot read the recipe: {error.strerror}"]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return {}, [f"{path}: not valid YAML: {' '.join(str(error).split())}"]
    if tree is None:
        return {}, problems
    if not isinstance(tree, dict):
        return {}, [f"{path}: a recipe must be a mapping of keys to values, got {type(tree).__name__}"]
    return tree, problems


def _apply(tree: dict[str, Any], override: str) -> list[str]:
    """Apply one override `a.b=value` to the tree; return its problems."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        return [f"--set {override}: expected key=value"]
    value, problems = read_value(key, text)
    if problems:
        return [f"--set {override}: {problem}" for problem in problems]
    *parents, leaf = key.split(".")
    for name in parents:
        if tree.get(name) is None:  # missing, or an empty section
            tree[name] = {}
        child = tree[name]
        if not isinstance(child, dict):
            return [f"--set {override}: {name} is {child!r}, which has no keys"]
        tree = child
    tree[leaf] = value
    return []


def _describe(detail: Any) -> list[str]:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return [unknown_key(key)]
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":  # raised by our validators; the message already contains the value
        return [line if line.split(":")[0] in dict(fields()) else f"{key}: {line}" for line in message.splitlines()]
    return [f"{key}: {message}, got {detail['input']!r}"]

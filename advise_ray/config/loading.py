"""Loads a recipe and `--set` overrides into a `Config`, or reports all of their problems at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
MESSAGES = {
    "tuple_type": "must be a list, such as [a, b]",
    "model_type": "must be a section of keys, such as {key: value}",
    "dict_type": "must be a section of keys, such as {key: value}",
}
"""Own words for pydantic's types of errors."""


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
        problems += list(dict.fromkeys(line for detail in error.errors() for line in _describe(detail)))
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
    nested: dict[str, Any] = {}
    problems += [f"{path}: {problem}" for problem in _nest(tree, nested)]
    return nested, problems


def _nest(tree: dict[str, Any], nested: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Copy a recipe to `nested`, where a dotted key (`optim.lr: 1`) is a key of a section. Yields problems."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key.partition(".")[0] != "search":
            yield from _nest(value, nested, f"{key}.")
        else:
            yield from _place(nested, key, value, joins=True)


def _apply(tree: dict[str, Any], override: str) -> list[str]:
    """Apply one override `a.b=value` to the tree; return its problems."""
    key, separator, text = override.partition("=")
    key = key.strip()
    if not separator or not key:
        return [f"--set {override}: expected key=value"]
    value, problems = read_value(key, text)
    return [f"--set {override}: {problem}" for problem in problems or _place(tree, key, value)]


def _place(tree: dict[str, Any], key: str, value: Any, *, joins: bool = False) -> Iterator[str]:
    """Put a value at a dotted key of the tree, or yield the problem.

    Args:
        joins: join a section with what is there, instead of replacing it.
    """
    *parents, leaf = key.split(".")
    for name in parents:
        if tree.get(name) is None:  # missing, or an empty section
            tree[name] = {}
        child = tree[name]
        if not isinstance(child, dict):
            yield f"{name} is {child!r}, which has no keys"
            return
        tree = child
    there = tree.get(leaf) if joins else None
    tree[leaf] = {**there, **(value or {})} if isinstance(there, dict) and isinstance(value, dict | None) else value


def _describe(detail: Any) -> list[str]:
    # If a value may have several types, pydantic adds the type to its place: `num_workers.constrained-int`.
    key = ".".join(part for part in map(str, detail["loc"]) if not part.startswith(("constrained-", "tuple[")))
    if detail["type"] == "extra_forbidden":
        return [unknown_key(key)]
    message = MESSAGES.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":  # raised by our validators; the message already contains the value
        return [line if line.split(":")[0] in dict(fields()) else f"{key}: {line}" for line in message.splitlines()]
    return [f"{key}: {message}, got {detail['input']!r}"]

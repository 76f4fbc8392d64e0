"""Converts the schema to a flat list of dotted keys, for `--set`, MLflow, Ray Tune and the reference page."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from advise_ray.config.schema import Config
from advise_ray.config.section import Section


def flatten(config: Config) -> dict[str, Any]:
    """Return a mapping of dotted keys to values, in the order of the schema, for MLflow, Ray Tune and `--set`."""

    def walk(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in section.items():
            if isinstance(value, Mapping) and value:
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    return dict(walk(config.model_dump(mode="json"), ""))


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """Return the overrides `key=value` for `load` and `--set`, with the values as JSON."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def fields(section: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every dotted key of the schema with its pydantic field."""
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from fields(info.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, info


def unknown_key(key: str) -> str:
    """Describe a misspelled key: its nearest key, preferring one with the same last part."""
    names = [name for name, _ in fields()]
    leaves = [name for name in names if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    near = leaves or difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "`advise-ray config schema --markdown` lists all keys"
    return f"{key}: unknown key; {hint}"


_ABOUT = (
    "# Every setting",
    "",
    "Recipes (YAML), `--set` and MLflow's parameters all use these dotted keys. The command",
    "`advise-ray config schema --markdown` prints this page, and a test checks that it is up to date.",
)


def reference() -> str:
    """Return the text of `jobs/SETTINGS.md`: a Markdown table with the name, type, default and meaning of every key."""
    rows = [*_ABOUT, "", "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, info in fields():
        default = json.dumps(info.default, default=str) if info.default is not None else "unset"
        meaning = " ".join((info.description or "").split())
        rows.append(f"| `{name}` | {_type_name(info.annotation)} | `{default}` | {meaning} |")
    return "\n".join(rows) + "\n"


def _type_name(annotation: Any) -> str:
    """Return a readable name of a type, such as `int or null` or `list of float`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(inner[0])
    if origin is tuple:
        return f"list of {_type_name(inner[0])}"
    if origin is dict:
        return f"mapping of {_type_name(inner[0])} to {_type_name(inner[1])}"
    if origin in (Literal, Union, types.UnionType):
        return " or ".join(f"`{value}`" if origin is Literal else _type_name(value) for value in inner)
    return "null" if annotation is type(None) else str(annotation.__name__)

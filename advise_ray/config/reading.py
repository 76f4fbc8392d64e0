"""Reads YAML safely: text values stay as they were typed, and duplicate keys and hidden comments are errors."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import yaml

from advise_ray.config.keys import fields

NULL = "tag:yaml.org,2002:null"
TEXT = "tag:yaml.org,2002:str"
MERGE = "tag:yaml.org,2002:merge"
IMPLICIT = {TEXT} | {tag for each in yaml.SafeLoader.yaml_implicit_resolvers.values() for tag, _ in each}
"""Tags that YAML itself gives to plain values. A tag that a recipe has (`!env NAME`) is another one, and an error."""
NUMBER = re.compile(r"[-+]?(0|[1-9][\d_]*)(\.[\d_]*)?(e[-+]?\d+)?|[-+]?\.\w+", re.IGNORECASE)


def read_tree(text: str) -> tuple[Any, list[str]]:
    """Parse a recipe; return its content and its problems: duplicate keys, and values that YAML would shorten.

    Raises:
        yaml.YAMLError: The text is not valid YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        problems = list(_keep_text(node, "", set()))
        return loader.construct_document(node), problems
    finally:
        loader.dispose()


def read_value(key: str, text: str) -> tuple[Any, list[str]]:
    """Parse the value of `--set key=text`; return the value and its problems."""
    takes, stripped = text_keys().get(key, ""), text.strip()
    is_quoted = stripped[:1] in ("'", '"')
    if takes and not is_quoted and not (stripped.startswith("[") and "list" in takes):
        is_null = stripped in ("", "null") and "null" in takes
        return None if is_null else stripped, []
    if re.search(r"(^|\s)#", text) and not {'"', "'"} & set(text):
        return None, ["YAML ignores the text after #; remove it, or quote the value"]
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        problems = list(_keep_text(node, key, set())) if node is not None else []
        return loader.construct_document(node) if node is not None else None, problems
    except yaml.YAMLError:
        return text, []
    finally:
        loader.dispose()


@functools.cache
def text_keys() -> dict[str, str]:
    """Map each key whose value is text to the kinds it accepts: `text`, `null text` or `list null text`."""
    found = {}
    for key, info in fields():
        kinds = set(_kinds(info.annotation))
        if "text" in kinds and kinds <= {"text", "null", "list"}:
            found[key] = " ".join(sorted(kinds))
    return found


def _kinds(annotation: Any) -> Iterator[str]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is str or (origin is Literal and all(isinstance(value, str) for value in inner)):
        yield "text"
    elif annotation is type(None):
        yield "null"
    elif origin is tuple and all("text" in set(_kinds(each)) for each in inner if each is not Ellipsis):
        yield from ("text", "list")
    elif origin is None or origin is tuple:
        yield "other"
    elif hasattr(annotation, "__metadata__"):
        yield from _kinds(inner[0])
    else:  # a union
        for each in inner:
            yield from _kinds(each)


def _keep_text(node: yaml.Node, key: str, seen: set[str]) -> Iterator[str]:
    """Tag scalars as text, except numbers in plain notation; yield a problem for each duplicate or shortened value.

    Args:
        key: Dotted key of the node.
        seen: Gets the dotted keys.
    """
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.tag in IMPLICIT and name.tag != MERGE and not key.startswith("search."):
                name.tag = TEXT  # `on: 1`; the cases of a search are values
            inner = f"{key}.{name.value}" if key else str(name.value)
            if inner in seen:
                yield f"{inner}: duplicate key, again at line {name.start_mark.line + 1}; remove one of them"
            seen.add(inner)
            yield from _keep_text(value, inner, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _keep_text(item, key, set() if isinstance(item, yaml.MappingNode) else seen)
    elif isinstance(node, yaml.ScalarNode) and node.style is None and node.tag in IMPLICIT:
        takes = text_keys().get(key, "")
        cut = re.match(r"[ \t]+(#\S+)", (node.end_mark.buffer or "")[node.end_mark.pointer :]) if takes else None
        if cut:
            yield f"{key}: YAML ignores {cut[1]!r}; quote the value, or write a space after # if it is a comment"
        if node.tag == NULL:
            is_home = node.value == "~" and takes and "null" not in takes
            node.tag = TEXT if is_home else NULL
        elif takes or not (NUMBER.fullmatch(node.value) or node.value in ("true", "false")):
            node.tag = TEXT  # `on`, `010`, `1:30`, a date: pydantic converts the text to the key's type

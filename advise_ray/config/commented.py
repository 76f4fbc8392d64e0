"""Writes a recipe with comments."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence

from advise_ray.config.keys import flatten
from advise_ray.config.schema import Config

WIDTH = 120


def commented(config: Config, comments: Mapping[str, str], header: Sequence[str]) -> str:
    """Return the values that differ from the defaults, and all commented values, as YAML that `load` reads.

    Args:
        comments: dotted key, or section, → comment, which is written above it; if empty, only the value is written.
            The comment on a section without values is left out.
        header: paragraphs of comments at the top. An indented line, such as a command, is not wrapped.
    """
    defaults, values = flatten(Config()), flatten(config)
    written = {key: value for key, value in values.items() if key in comments or value != defaults[key]}
    lines = [*(line for paragraph in header for line in _comment(paragraph, 0) or ["#"]), ""]
    sections: list[str] = []
    for key, value in written.items():
        *parents, leaf = key.split(".")
        for depth, name in enumerate(parents):
            if sections[: depth + 1] != parents[: depth + 1]:
                lines += _comment(comments.get(".".join(parents[: depth + 1]), ""), depth)
                lines.append(f"{'  ' * depth}{name}:")
        sections = parents
        lines += _comment(comments.get(key, ""), len(parents))
        lines.append(f"{'  ' * len(parents)}{leaf}: {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _comment(text: str, depth: int) -> list[str]:
    prefix = "  " * depth + "# "
    if text.startswith(" "):
        return [prefix + text]
    return textwrap.wrap(text, WIDTH, initial_indent=prefix, subsequent_indent=prefix) if text else []

"""What all sections of a configuration share: strictness, and the types of their values."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def absolute(path: str) -> str:
    """A path as it is from any working directory: Ray's workers run in others.

    Raises:
        ValueError: it is a URL, or has a shell's variable in it.
    """
    if "://" in path:
        raise ValueError("must be a local path (on a cluster: one that all nodes share), not a URL")
    if (variable := re.search(r"\$(\w+|{\w+})", path)) and not Path(path).exists():
        raise ValueError(f"{path}: {variable[0]} is not replaced here; write it out, or give it with --set in a shell")
    return str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111 (Path's own raises for an unknown user)


def absolute_or_url(location: str) -> str:
    """A URL as it is, a path as `absolute` makes it."""
    return location if "://" in location else absolute(location)


LocalPath = Annotated[str, AfterValidator(absolute)]
Location = Annotated[str, AfterValidator(absolute_or_url)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Cpus = Annotated[float, Field(ge=0.25)]


class Section(BaseModel):
    """A group of keys: frozen, strict about names, its numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, values: Any) -> Any:
        """`optim:` with nothing under it, as when all its lines are commented out."""
        return {} if values is None else values

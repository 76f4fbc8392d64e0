"""The base class of all sections of the configuration, and the types of their values."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def absolute(path: str) -> str:
    """Return the absolute path, because Ray's workers have another working directory.

    Raises:
        ValueError: The path is empty or a URL, or contains a shell variable.
    """
    if not path.strip():  # such as `storage.path=$SCRATCH`, which the shell makes empty
        raise ValueError("is empty; give a path, such as ./runs")
    if "://" in path:
        raise ValueError("must be a local path (on a cluster: one that all nodes share), not a URL")
    if (variable := re.search(r"\$(\w+|{\w+})", path)) and not Path(path).exists():
        raise ValueError(f"{path}: shell variables such as {variable[0]} are not expanded; write the full path")
    return str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111 (Path's own raises for an unknown user)


def absolute_or_url(location: str) -> str:
    """Return a URL unchanged, and a path as an absolute path."""
    return location if "://" in location else absolute(location)


LocalPath = Annotated[str, AfterValidator(absolute)]
Location = Annotated[str, AfterValidator(absolute_or_url)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Cpus = Annotated[float, Field(ge=0.25)]


class Section(BaseModel):
    """A group of keys. It is frozen, and rejects unknown keys and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, values: Any) -> Any:
        """Treat an empty section (`optim:` with all its lines commented out) as the defaults."""
        return {} if values is None else values

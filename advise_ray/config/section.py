"""What all sections of a configuration share: strictness, and the types of their values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def absolute(location: str) -> str:
    if "://" in location:
        return location
    return str(Path(os.path.expanduser(location)).absolute())  # noqa: PTH111 (Path's own raises for an unknown user)


Location = Annotated[str, AfterValidator(absolute)]
"""A path or a URL. Paths are made absolute at once: Ray's workers run in other working directories."""

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

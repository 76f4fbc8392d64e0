"""Keys of `search` and `tune`: which settings a sweep tries, and how it chooses among them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from advise_ray.config.section import Positive, Section

Interval = tuple[float, float]
KINDS = ("choice", "grid", "uniform", "loguniform", "randint", "quniform")


class Space(Section):
    """What one key may be: exactly one of these, or one for each value of another key (`given`, `cases`)."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    """One of these, by lot."""
    grid: tuple[Any, ...] | None = Field(None, min_length=1)
    """Each of these."""
    uniform: Interval | None = None
    """Between the two."""
    loguniform: Interval | None = None
    """Between the two, as likely in each order of magnitude."""
    randint: tuple[int, int] | None = None
    """A whole number from the first on, below the second."""
    quniform: tuple[float, float, float] | None = None
    """Between the first two, rounded to a multiple of the third."""
    given: str | None = None
    """Another searched key, on whose value this one's space depends."""
    cases: dict[str, Space] | None = None
    """Value of that key, as YAML writes it → the space; a value without one leaves the recipe's."""

    @model_validator(mode="before")
    @classmethod
    def _constant_case(cls, values: Any) -> Any:
        """In `cases`, a plain value is a choice of one."""
        if isinstance(values, dict) and isinstance(cases := values.get("cases"), dict):
            spaces = {key: case if isinstance(case, dict) else {"choice": [case]} for key, case in cases.items()}
            return {**values, "cases": {text_of(key): case for key, case in spaces.items()}}
        return values

    @model_validator(mode="after")
    def _one_kind(self) -> Space:
        kinds = [kind for kind in (*KINDS, "given") if getattr(self, kind) is not None]
        if len(kinds) != 1 or (self.given is None) != (self.cases is None):
            raise ValueError(
                f"exactly one of {', '.join(KINDS)}, or given with cases; got {', '.join(kinds) or 'none'}"
            )
        bounds = self.uniform or self.loguniform or self.randint or self.quniform
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"{kinds[0]}: {bounds[0]:g} must be below {bounds[1]:g}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform: must be above 0, got {self.loguniform[0]:g}")
        if self.quniform is not None and self.quniform[2] <= 0:
            raise ValueError(f"quniform: the step must be above 0, got {self.quniform[2]:g}")
        return self

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def values(self) -> tuple[Any, ...] | None:
        """Where they can be counted."""
        if self.randint is not None:
            return tuple(range(*self.randint))
        return self.grid or self.choice

    def case(self, value: Any) -> Space | None:
        """The space that holds where the key of `given` has this value."""
        assert self.cases is not None
        return self.cases.get(text_of(value))


class TuneConfig(Section):
    """How a sweep goes over its search space."""

    objective: Literal["pretext", "linear", "knn", "finetune", "delta"] = "pretext"
    """What a trial is: PRP pretraining and its validation; the same and a linear probe or nearest neighbours on its
    result; the same and a fine-tuning; or that beside a fine-tuning from scratch, for ΔAcc."""
    metric: str | None = None
    """What the best trial has most, or least, of; unset: the objective's own (`val/top1`, `linear/top1`, `knn/top1`,
    `acc_ft`, `delta_acc`)."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less of it is better."""
    finetune: str = "finetune_quickstart"
    """Recipe of the fine-tuning, a file or a shipped name; it takes the data, the model and the seed of the trial.
    Searched keys that begin with `finetune.` are its own."""
    num_trials: Positive = 16
    """Trials of a random or TPE search; a grid has as many as it has."""
    searcher: Literal["grid", "random", "tpe"] = "grid"
    """Every combination, settings by lot, or Optuna's tree-structured Parzen estimator."""
    scheduler: Literal["none", "asha"] = "none"
    """`asha` stops trials early that are worse than most were at the same epoch."""
    time_budget_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which no trial goes on."""
    max_concurrent: Positive | None = None
    """Trials at once; unset, as many as there are CPUs, or GPUs, for."""

    @model_validator(mode="after")
    def _can_stop_early(self) -> TuneConfig:
        if self.scheduler == "asha" and self.metric is None and self.objective != "pretext":
            raise ValueError(
                f"tune.scheduler: asha compares trials while they train, and {self.objective}'s own metric comes at "
                "their end; set tune.metric to one of every epoch, such as finetune/val/top1"
            )
        return self

    @property
    def judged_by(self) -> str:
        """The metric that counts."""
        own = {"pretext": "val/top1", "finetune": "acc_ft", "delta": "delta_acc"}
        return self.metric or own.get(self.objective, f"{self.objective}/top1")


def text_of(value: Any) -> str:
    """As YAML writes it."""
    return value if isinstance(value, str) else json.dumps(value)

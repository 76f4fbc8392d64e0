"""Keys of `search` and `tune`: the search space of a sweep, and how trials are chosen and compared."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from advise_ray.config.section import Positive, Section

Interval = tuple[float, float]
KINDS = ("choice", "grid", "uniform", "loguniform", "randint", "quniform")


class Space(Section):
    """Search space of one key: one of the distributions, or one space per value of another key (`given`, `cases`)."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    """A random value of this list."""
    grid: tuple[Any, ...] | None = Field(None, min_length=1)
    """Every value of this list."""
    uniform: Interval | None = None
    """A number between the two bounds, uniformly distributed."""
    loguniform: Interval | None = None
    """A number between the two bounds, whose logarithm is uniformly distributed."""
    randint: tuple[int, int] | None = None
    """A random integer, at least the first bound and below the second."""
    quniform: tuple[float, float, float] | None = None
    """A number between the first two values, rounded to a multiple of the third."""
    given: str | None = None
    """Another searched key; its value selects the space from `cases`."""
    cases: dict[str, Space] | None = None
    """Maps values of the `given` key, as YAML writes them, to spaces. For a value without a space, the recipe's value
    is used."""

    @model_validator(mode="before")
    @classmethod
    def _constant_case(cls, values: Any) -> Any:
        """Convert a plain value in `cases` to a choice of one value."""
        if isinstance(values, dict) and isinstance(cases := values.get("cases"), dict):
            spaces = {key: case if isinstance(case, dict) else {"choice": [case]} for key, case in cases.items()}
            return {**values, "cases": {text_of(key): case for key, case in spaces.items()}}
        return values

    @model_validator(mode="after")
    def _one_kind(self) -> Space:
        kinds = [kind for kind in (*KINDS, "given") if getattr(self, kind) is not None]
        if len(kinds) != 1 or (self.given is None) != (self.cases is None):
            raise ValueError(
                f"needs exactly one of {', '.join(KINDS)}, or given with cases; got {', '.join(kinds) or 'none'}"
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
        """All values of the space, or None if the space is continuous or depends on another key."""
        if self.randint is not None:
            return tuple(range(*self.randint))
        return self.grid or self.choice

    def case(self, value: Any) -> Space | None:
        """Return the space for this value of the `given` key, or None."""
        assert self.cases is not None
        return self.cases.get(text_of(value))


class TuneConfig(Section):
    """How a sweep chooses, runs and compares its trials."""

    objective: Literal["pretext", "linear", "knn", "finetune", "delta"] = "pretext"
    """What a trial runs. `pretext`: pretraining and its validation; `linear` and `knn`: pretraining, then a linear
    probe or nearest neighbours on its features; `finetune`: pretraining, then fine-tuning; `delta`: the same, and
    fine-tuning from scratch too, for ΔAcc."""
    metric: str | None = None
    """Metric that selects the best trial. If unset, the objective's metric: `val/top1`, `linear/top1`, `knn/top1`,
    `acc_ft` or `delta_acc`."""
    mode: Literal["max", "min"] = "max"
    """Whether a higher (`max`) or a lower (`min`) metric is better."""
    finetune: str = "finetune_quickstart"
    """Recipe of the fine-tuning: a file or the name of a shipped recipe. Its data, model and seed are taken from the
    trial. Searched keys that begin with `finetune.` change only the fine-tuning."""
    num_trials: Positive = 16
    """Number of trials of a random or TPE search. A grid search runs every combination instead."""
    searcher: Literal["grid", "random", "tpe"] = "grid"
    """`grid`: every combination; `random`: random settings; `tpe`: Optuna's tree-structured Parzen estimator."""
    scheduler: Literal["none", "asha"] = "none"
    """`asha` stops a trial early if it is worse than most other trials were at the same epoch."""
    time_budget_s: Annotated[float, Field(gt=0)] | None = None
    """Maximum time of the sweep, in seconds. After it all trials stop."""
    max_concurrent: Positive | None = None
    """Maximum number of trials that run at the same time. If unset, as many as the CPUs and GPUs allow."""

    @model_validator(mode="after")
    def _can_stop_early(self) -> TuneConfig:
        if self.scheduler == "asha" and self.metric is None and self.objective != "pretext":
            raise ValueError(
                f"tune.scheduler: asha compares trials after each epoch, but the metric of the objective "
                f"{self.objective} exists only at the end of a trial; set tune.metric to a metric that is measured in "
                "every epoch, such as finetune/val/top1"
            )
        return self

    @property
    def judged_by(self) -> str:
        """The metric that selects the best trial."""
        own = {"pretext": "val/top1", "finetune": "acc_ft", "delta": "delta_acc"}
        return self.metric or own.get(self.objective, f"{self.objective}/top1")


def text_of(value: Any) -> str:
    """Return the value as YAML writes it."""
    return value if isinstance(value, str) else json.dumps(value)

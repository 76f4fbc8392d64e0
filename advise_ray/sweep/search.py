"""Optuna's part: settings that follow from what earlier trials came to. Its study lies in the sweep's directory."""

from __future__ import annotations

import json
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from advise_ray.sweep.space import Settings, ask
from advise_ray.sweep.table import read_trials
from advise_ray.sweep.trial import Sweep

NAME = "sweep"


class Study:
    """A TPE search that numbers its trials, and goes on with those that were under way when a sweep went away."""

    def __init__(self, sweep: Sweep) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep = sweep
        path = sweep.directory / ".optuna.log"
        self.numbers: dict[str, int] = {}
        self._next = 0
        storage = JournalStorage(JournalFileBackend(str(path)))
        tuning = sweep.config.tune
        self.search = OptunaSearch(
            space=self._suggest,
            metric=tuning.judged_by,
            mode=tuning.mode,
            sampler=optuna.samplers.TPESampler(seed=sweep.config.seed),
            study_name=NAME,
            storage=storage,
        )
        self._take_up(optuna.load_study(study_name=NAME, storage=storage))

    def _suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        settings = ask(self.sweep.config.search, trial)
        key = json.dumps(settings)
        number = self.numbers.pop(key) if key in self.numbers else self._next
        self._next = max(self._next, number + 1)
        return {"trial": {"number": number, "settings": settings}}

    def _take_up(self, study: optuna.Study) -> None:
        """Trials that the study thinks are running, and whose directories have not ended, are asked for again."""
        ended = {row["number"] for row in read_trials(self.sweep.directory)}
        begun = {int(path.parent.name): path for path in self.sweep.directory.glob("trials/*/settings.json")}
        self._next = max([-1, *begun, *ended]) + 1
        for trial in study.get_trials(states=[TrialState.RUNNING]):
            study.tell(trial.number, state=TrialState.FAIL)
        for number, path in sorted(begun.items()):
            if number not in ended:
                settings: Settings = json.loads(path.read_text())
                self.numbers[json.dumps(settings)] = number
                study.enqueue_trial({key: _encoded(self.sweep, key, value) for key, value in settings.items()})


def _encoded(sweep: Sweep, key: str, value: Any) -> Any:
    """As `space.ask` names it to Optuna."""
    space = sweep.config.search[key]
    return value if space.values is None or space.randint is not None else json.dumps(value)


def as_study(sweep_rows: list[dict[str, Any]], metric: str, mode: str) -> optuna.Study:
    """Trials that have ended as a study in memory, for Optuna's figures; settings that all have, and no other."""
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    shared = [key for key in sweep_rows[0]["settings"] if all(key in row["settings"] for row in sweep_rows)]
    spaces = {key: _distribution([row["settings"][key] for row in sweep_rows]) for key in shared}
    for row in sweep_rows:
        params = {
            key: row["settings"][key] if not isinstance(spaces[key], CategoricalDistribution) else _label(row, key)
            for key in shared
        }
        study.add_trial(optuna.create_trial(params=params, distributions=spaces, value=row["values"][metric]))
    return study


def _label(row: dict[str, Any], key: str) -> str:
    return json.dumps(row["settings"][key])


def _distribution(values: list[Any]) -> BaseDistribution:
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return IntDistribution(min(values), max(values))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = float(min(values)), float(max(values))
        return FloatDistribution(low, high, log=low > 0 and high > 30 * low)
    return CategoricalDistribution(sorted({json.dumps(value) for value in values}))

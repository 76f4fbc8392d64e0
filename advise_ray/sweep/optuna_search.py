"""TPE search with Optuna: proposes settings from the results of earlier trials. The sweep's directory has its study."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from advise_ray.sweep.space import Settings, as_asked, ask
from advise_ray.sweep.trial import Sweep
from advise_ray.sweep.trial_result import TrialResult, read_trials

NAME = "sweep"


class Study:
    """A TPE search that numbers its trials and resumes the trials that an interrupted sweep was running.

    With ASHA, trials from before and after the interruption are not compared with each other.
    """

    def __init__(self, sweep: Sweep) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep = sweep
        tuning = sweep.config.tune
        storage = JournalStorage(JournalFileBackend(str(sweep.directory / ".optuna.log")))
        direction = StudyDirection.MAXIMIZE if tuning.mode == "max" else StudyDirection.MINIMIZE
        study = optuna.create_study(study_name=NAME, storage=storage, direction=direction, load_if_exists=True)
        self.numbers: dict[str, list[int]] = {}
        """Settings as JSON → numbers of the unfinished trials with these settings, which are proposed again."""
        self.taken = {row["number"] for row in read_trials(sweep.directory)}
        self._resume_trials(study)
        self.search = OptunaSearch(
            space=self._suggest,
            metric=tuning.judged_by,
            mode=tuning.mode,
            # A restarted sampler first draws at random. Another seed keeps it from repeating earlier draws.
            sampler=optuna.samplers.TPESampler(seed=sweep.config.seed + len(study.trials)),
            study_name=NAME,
            storage=storage,
        )

    def _suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        settings = ask(self.sweep.config.search, trial)
        known = self.numbers.get(json.dumps(settings))
        number = known.pop(0) if known else next(each for each in itertools.count() if each not in self.taken)
        self.taken.add(number)
        return {"trial": {"number": number, "settings": settings}}

    def _resume_trials(self, study: optuna.Study) -> None:
        for trial in study.get_trials(states=[TrialState.RUNNING]):
            study.tell(trial.number, state=TrialState.FAIL)
        waiting = [trial.system_attrs["fixed_params"] for trial in study.get_trials(states=[TrialState.WAITING])]
        for path in sorted(self.sweep.directory.glob("trials/*/settings.json")):
            number = int(path.parent.name)
            if number in self.taken:
                continue
            settings: Settings = json.loads(path.read_text(encoding="utf-8"))
            params = as_asked(self.sweep.config.search, settings)
            self.numbers.setdefault(json.dumps(settings), []).append(number)
            self.taken.add(number)
            if params in waiting:
                waiting.remove(params)
            else:
                study.enqueue_trial(params)


def as_study(trials: Sequence[TrialResult], metric: str, mode: str) -> optuna.Study:
    """An in-memory study of the finished trials, for Optuna's figures. It has only settings that all trials have."""
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    shared = [key for key in trials[0]["settings"] if all(key in row["settings"] for row in trials)]
    spaces = {key: _distribution([row["settings"][key] for row in trials]) for key in shared}
    for row in trials:
        params = {
            key: row["settings"][key] if not isinstance(spaces[key], CategoricalDistribution) else _label(row, key)
            for key in shared
        }
        study.add_trial(optuna.create_trial(params=params, distributions=spaces, value=row["values"][metric]))
    return study


def _label(row: TrialResult, key: str) -> str:
    return json.dumps(row["settings"][key])


def _distribution(values: list[Any]) -> BaseDistribution:
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return IntDistribution(min(values), max(values))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = float(min(values)), float(max(values))
        return FloatDistribution(low, high, log=low > 0 and high > 30 * low)
    return CategoricalDistribution(sorted({json.dumps(value) for value in values}))

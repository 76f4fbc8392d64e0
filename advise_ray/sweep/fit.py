"""Runs trials with Ray Tune on the cluster and stops unpromising trials early."""

from __future__ import annotations

import os
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from advise_ray.backend import shutdown_notice
from advise_ray.config import Config
from advise_ray.storage.retry import patiently
from advise_ray.sweep.optuna_search import Study
from advise_ray.sweep.settings import FINETUNED, finetuning
from advise_ray.sweep.space import Settings
from advise_ray.sweep.trainable import Trial
from advise_ray.sweep.trial import Sweep
from advise_ray.sweep.tune_callback import TrialCallback

POLL_S = 0.5
LONGEST_STOP_S = 15.0
QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trial's directory has the same data
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial without validation videos has no metric
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run_trials(
    sweep: Sweep,
    settings: list[Settings],
    todo: list[int],
    recorder: TrialCallback,
    concurrent: int,
    resources: dict[str, float],
) -> None:
    """Run the trials with the numbers `todo`, or as many trials as `todo` has with settings from Optuna.

    Raises:
        KeyboardInterrupt: the running trials were ended, and saved if there was time.
    """
    tuning, search = sweep.config.tune, None
    if tuning.searcher == "tpe":
        search = Study(sweep).search
    elif tuning.scheduler == "asha":  # finished trials repeat their reports, because ASHA compares the others with them
        todo = list(range(len(settings)))
    given = [] if search else [{"number": number, "settings": settings[number]} for number in todo]
    stop = StopFile(sweep.directory / ".ray" / "stop")
    os.environ.update(QUIET)
    trainable = ray_tune.with_resources(ray_tune.with_parameters(Trial, sweep=sweep), resources)
    tuner = ray_tune.Tuner(
        trainable,
        param_space=None if search else {"trial": ray_tune.grid_search(given)},
        tune_config=ray_tune.TuneConfig(
            metric=tuning.judged_by,
            mode=tuning.mode,
            search_alg=search,
            scheduler=_scheduler(sweep.config),
            num_samples=len(todo) if search else 1,
            max_concurrent_trials=concurrent,
            time_budget_s=tuning.time_budget_s,
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(
            name=f"{datetime.now():%Y%m%d-%H%M%S}",
            storage_path=str(sweep.directory / ".ray"),
            verbose=0,
            failure_config=ray_tune.FailureConfig(max_failures=1),
            callbacks=[recorder],
            stop=stop,
        ),
    )
    with shutdown_notice.awaited(
        str(sweep.directory), sweep.config.train.grace_s, lambda: bool(recorder.running)
    ) as noticed:
        _fit(tuner, stop, recorder, noticed)


def _fit(tuner: ray_tune.Tuner, stop: StopFile, recorder: TrialCallback, noticed: shutdown_notice.Notice) -> None:
    """Run Tune in a thread, because in the main thread Tune would handle Ctrl-C itself."""
    error: list[BaseException] = []

    def fit() -> None:
        try:
            tuner.fit()
        except BaseException as raised:
            error.append(raised)

    thread = threading.Thread(target=fit, name="ray-tune", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_S)
            if noticed.given:
                recorder.left = True
                noticed.pass_on()
                if not recorder.running:
                    stop.set()  # not earlier, because Tune would end trials that are still saving
        if noticed.given:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        recorder.left = True
        stop.set()
        thread.join(LONGEST_STOP_S)  # a Tune that still runs would start a new Ray after ours has ended
        raise
    if error:
        raise error[0]


class StopFile(ray_tune.Stopper):
    """Stops all trials after `set`. The flag is a file, because Tune pickles this object."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)

    def set(self) -> None:
        patiently(self.path.touch)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.path.exists()


def _scheduler(config: Config) -> Any:
    if config.tune.scheduler == "none":
        return FIFOScheduler()
    epochs = config.train.epochs
    if config.tune.objective in FINETUNED:
        epochs += finetuning(config, {}, "model.init_from=null").train.epochs
    return ASHAScheduler(
        time_attr="epochs",
        max_t=epochs,
        grace_period=max(1, epochs // 9),
        reduction_factor=3,
        stop_last_trials=False,  # a trial at max_t still has its final report to send
    )

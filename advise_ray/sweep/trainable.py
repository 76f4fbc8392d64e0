"""The trainable that Ray Tune runs: an actor that runs trials one after another."""

from __future__ import annotations

from typing import Any

from ray import tune

from advise_ray.errors import InterruptedRunError
from advise_ray.sweep.trial import Sweep, follow


class Trial(tune.Trainable):
    """Runs a trial. Each step returns one report of `trial.follow`.

    After a trial the actor runs the next one (`reset_config`), because a new process needs seconds to import torch.
    `config["trial"]` holds `number` and `settings`.
    """

    def setup(self, config: dict[str, Any], sweep: Sweep) -> None:
        self.sweep = sweep
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        trial = config["trial"]
        self.reports = follow(self.sweep, trial["settings"], self.sweep.trial_dir(trial["number"]))

    def step(self) -> dict[str, Any]:
        try:
            return next(self.reports)
        except InterruptedRunError:  # the trial has saved its state, and the sweep handles the interruption
            return {"done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.reports.close()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self.reports.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: a trial resumes from its own directory."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing, see `save_checkpoint`."""

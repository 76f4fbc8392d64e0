"""A trial as Ray Tune runs it: in an actor that takes one after the other."""

from __future__ import annotations

from typing import Any

from ray import tune

from advise_ray.errors import InterruptedRunError
from advise_ray.sweep.trial import Sweep, follow


class Trial(tune.Trainable):
    """A step is one report of `trial.follow`.

    An actor that has ended one trial takes the next (`reset_config`): a process that imports torch takes seconds to
    start. `config["trial"]` holds `number` and `settings`.
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
        except InterruptedRunError:  # it is saved, and Tune's part is over; the sweep knows why
            return {"done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.reports.close()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self.reports.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """A trial's directory has all that it goes on from."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""

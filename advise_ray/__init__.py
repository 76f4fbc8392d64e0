"""Train video models cheaply: a frozen image model, a small temporal module, playback-rate prediction, on Ray.

`Config`, `train`, `evaluate`, `load` and `tune` are imported when they are first used, so `import advise_ray` is fast.

The files through which a clip passes, in order:
    video/manifest.py             which videos there are, with labels; video/splits.py chooses those to train on
    training/batch_schedule.py    which videos make up each batch
    video/sampling.py             which frames of a video a clip shows, and at which playback rate
    training/clip_stream.py       Ray Data sends the schedule to decode actors, and their clips to the workers
    training/clip_reader.py       an actor decodes and resizes (video/decode.py), or reads cached features
    training/ray_worker.py        a Ray Train worker takes the clips; training/worker.py trains on them
    training/learner.py           augmentation, image model, SFU, TMM, head, loss, optimizer
    training/metrics_writer.py    metrics.jsonl, which the driver sends to MLflow (tracking/)

From the command to the optimizer: cli/train.py → training/trainer.py → training/ray_train.py (Ray Train) →
training/ray_worker.py → `Worker.epochs` → `Learner.train_step`.
`training/local.py` has the complete training loop for one process, on one page.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advise_ray.config import Config
    from advise_ray.deploy.load import load
    from advise_ray.evaluation.evaluate_run import evaluate
    from advise_ray.sweep.tuner import tune
    from advise_ray.training.trainer import train

__version__ = "0.1.0"
__all__ = ["Config", "__version__", "evaluate", "load", "train", "tune"]

_HOMES = {
    "Config": "advise_ray.config",
    "evaluate": "advise_ray.evaluation.evaluate_run",
    "load": "advise_ray.deploy.load",
    "train": "advise_ray.training.trainer",
    "tune": "advise_ray.sweep.tuner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)

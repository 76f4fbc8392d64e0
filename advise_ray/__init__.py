"""Train video models cheaply: a frozen image model, a small temporal module, playback-rate prediction, on Ray.

`Config`, `train`, `evaluate` and `tune` are imported when they are first used: `import advise_ray` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advise_ray.config import Config
    from advise_ray.evaluation.run import evaluate
    from advise_ray.inference import load
    from advise_ray.sweep.run import tune
    from advise_ray.training.trainer import train

__version__ = "0.1.0"
__all__ = ["Config", "__version__", "evaluate", "load", "train", "tune"]

_HOMES = {
    "Config": "advise_ray.config",
    "evaluate": "advise_ray.evaluation.run",
    "load": "advise_ray.inference",
    "train": "advise_ray.training.trainer",
    "tune": "advise_ray.sweep.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)

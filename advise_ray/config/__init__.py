"""The typed configuration: one flat name space of dotted keys for recipes, `--set`, Tune and MLflow.

`load` merges a recipe with overrides and returns a frozen `Config`, or raises `ConfigError` with every problem at
once. No value is resolved by mutation later: what follows from other values is a function (`videos_per_step`, …).
"""

from advise_ray.config.data import AugmentConfig, ClipConfig, DataConfig
from advise_ray.config.keys import fields, flatten, reference
from advise_ray.config.loading import load, to_yaml
from advise_ray.config.model import HeadConfig, IFMConfig, SFUConfig, TMMConfig
from advise_ray.config.schema import Config, OptimConfig, TrainConfig, played_clip, videos_per_step, worker_counts
from advise_ray.config.search import Space, TuneConfig

__all__ = [
    "AugmentConfig",
    "ClipConfig",
    "Config",
    "DataConfig",
    "HeadConfig",
    "IFMConfig",
    "OptimConfig",
    "SFUConfig",
    "Space",
    "TMMConfig",
    "TrainConfig",
    "TuneConfig",
    "fields",
    "flatten",
    "load",
    "played_clip",
    "reference",
    "to_yaml",
    "videos_per_step",
    "worker_counts",
]

"""The typed configuration: recipes, `--set`, Ray Tune and MLflow all use the same dotted keys.

`load` merges a recipe with overrides and returns a frozen `Config`, or raises one `ConfigError` that lists every
problem. A `Config` never changes after that: functions such as `videos_per_step` compute the values that depend on
others.
"""

from advise_ray.config.commented import commented
from advise_ray.config.data import AugmentConfig, ClipConfig, DataConfig
from advise_ray.config.keys import fields, flatten, overrides_of, reference
from advise_ray.config.loading import INFERENCE, load, to_yaml
from advise_ray.config.model import HeadConfig, IFMConfig, SFUConfig, TMMConfig
from advise_ray.config.schema import Config, OptimConfig, TrainConfig, played_clip, videos_per_step, worker_counts
from advise_ray.config.search import Space, TuneConfig

__all__ = [
    "INFERENCE",
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
    "commented",
    "fields",
    "flatten",
    "load",
    "overrides_of",
    "played_clip",
    "reference",
    "to_yaml",
    "videos_per_step",
    "worker_counts",
]

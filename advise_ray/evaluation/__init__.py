"""What a trained model is worth: the protocols of the paper and of its neighbours, on Ray Data over all videos."""

from advise_ray.evaluation.actions import Settings
from advise_ray.evaluation.run import Protocol, evaluate

__all__ = ["Protocol", "Settings", "evaluate"]

"""Ray Train with a number of workers that follows the cluster's nodes, at sizes that share a step equally."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy

RESIZE_CHECK_S = 30.0
"""How often a run that goes on looks for room for more workers; each change costs the steps since a checkpoint."""


class _WholeShares(ElasticScalingPolicy):
    """Ray's own policy, which takes every number between min and max, held to those that divide the batch."""

    def __init__(self, scaling_config: Any, counts: list[int]) -> None:
        super().__init__(scaling_config)
        self.counts = counts

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible = super()._count_possible_workers(reserved_resources)
        return max((count for count in self.counts if count <= possible), default=0)


class ElasticTrainer(TorchTrainer):
    """A TorchTrainer whose groups have one of these numbers of workers.

    Ray has no public way to choose among them (ray 2.60, `DataParallelTrainer.fit` makes its policy itself).
    """

    def __init__(self, *args: Any, counts: list[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counts = counts

    def _initialize_and_run_controller(self, **kwargs: Any) -> Any:
        if len(self.counts) > 1:
            kwargs["scaling_policy"] = _WholeShares(self.scaling_config, self.counts)
        return super()._initialize_and_run_controller(**kwargs)

"""Ray Train as runs use it: followed by the thread that calls it, and with numbers of workers that share a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy

from advise_ray import runtime

RESIZE_CHECK_S = 30.0
"""How often a run that goes on looks for room for more workers; each change costs the steps since a checkpoint."""

POLL_S = 0.5


class _WholeShares(ElasticScalingPolicy):
    """Ray's own policy, which takes every number between min and max, held to those that divide the batch."""

    def __init__(self, scaling_config: Any, counts: list[int]) -> None:
        super().__init__(scaling_config)
        self.counts = counts

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible = super()._count_possible_workers(reserved_resources)
        return max((count for count in self.counts if count <= possible), default=0)


class RayTrainer(TorchTrainer):
    """A TorchTrainer whose groups have one of `counts` workers, and whose `fit` calls `meanwhile` as it waits.

    Ray has no public way to either (ray 2.60, data_parallel_trainer.py): `fit` makes its scaling policy itself, blocks
    in native code, and catches Ctrl-C to abort the controller. With `fit` in a thread, `ray.shutdown` on Ctrl-C takes
    from that code what it stands on: a segmentation fault, some times. Here an interrupt is the KeyboardInterrupt that
    it is anywhere, and nothing of Ray is under way behind it.
    """

    def __init__(self, *args: Any, counts: list[int], meanwhile: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counts, self.meanwhile = counts, meanwhile

    def _create_default_callbacks(self) -> list[Any]:
        """Without the process that frees what a dead controller held, where that ends with this process: starting it
        takes 4 CPU seconds, which the workers' start waits for."""
        callbacks = super()._create_default_callbacks()
        if not runtime.is_our_own():
            return callbacks
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]

    def _initialize_and_run_controller(self, **kwargs: Any) -> Any:
        if len(self.counts) > 1:
            kwargs["scaling_policy"] = _WholeShares(self.scaling_config, self.counts)
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        # The rest is what Ray's own does, but for waiting.
        variables = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **get_env_vars_to_propagate()}
        controller = (
            ray.remote(TrainController)
            .options(num_cpus=0, label_selector=here, runtime_env=runtime.environment(variables))
            .remote(**kwargs)
        )
        ended = controller.run.remote()
        while not ray.wait([ended], timeout=POLL_S)[0]:
            self.meanwhile()
        ray.get(ended)
        return ray.get(controller.get_result.remote())

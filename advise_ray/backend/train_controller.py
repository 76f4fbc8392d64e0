"""Extends Ray Train: reserves CPUs for decode actors too, and lets the calling thread work during `fit`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle
from ray.train.v2._internal.util import time_monotonic
from ray.util.placement_group import PlacementGroup

from advise_ray.backend import session
from advise_ray.backend.processes import Shares
from advise_ray.backend.reservation import Reservation
from advise_ray.backend.resource_wait import Waiting

RESIZE_CHECK_S = 30.0
"""How often a run checks for room for more workers. Each change repeats the steps since the last checkpoint."""

POLL_S, YIELD_S = 0.5, 0.05
_held: tuple[Shares, PlacementGroup] | None = None


def held() -> tuple[Shares, PlacementGroup]:
    """The shares and the placement group of the worker group that is starting. Only set in Ray Train's controller."""
    assert _held is not None
    return _held


class _Policy(ScalingPolicy):
    """Starts the worker group once there is room for its workers and decode actors, and restarts one that could grow.

    Ray's own policies count only the CPUs of workers and leave none for decode actors.
    """

    def __init__(self, scaling_config: Any, room: Reservation, resize_check_s: float) -> None:
        super().__init__(scaling_config)
        self.room, self.resize_check_s = room, resize_check_s
        self.elastic = scaling_config.elasticity_enabled
        self.checked_s = float("-inf")

    def after_controller_start(self, train_run_context: Any) -> None:
        """Does not register with Ray's autoscaling coordinator: the placement group already requests the nodes."""

    def make_decision_for_non_running_worker_group(self) -> NoopDecision | ResizeDecision:
        return self._start() if self.room.poll() else NoopDecision()

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> NoopDecision | ResizeDecision:
        _, group = held()
        if self.room.is_broken(group):
            return self._start()
        now_s = time_monotonic()
        if not self.elastic or now_s - max(worker_group_state.start_time, self.checked_s) < self.resize_check_s:
            return NoopDecision()
        self.checked_s = now_s
        return self._start() if self.room.could_be_better(group) else NoopDecision()

    def _start(self) -> ResizeDecision:
        return ResizeDecision(self.room.shares.num_workers, self.room.shares.worker_bundle)

    def _get_num_workers_for_resource_request(self) -> int:
        return self.room.shares.num_workers


class _Group(WorkerGroup):
    """A worker group that uses the first bundles of the run's placement group."""

    def _create_placement_group(self, *_: Any) -> DefaultPlacementGroupHandle:
        return DefaultPlacementGroupHandle(held()[1])


class RunController(TrainController):
    """Ray Train's controller with our reservation. Its name is that of its process, `ray::RunController`."""

    worker_group_cls = _Group

    async def waiting(self) -> Waiting | None:
        """What the run waits for, or None."""
        return self._scaling_policy.room.waiting

    async def _step(self) -> Any:
        """Pause before each step: Ray's own loop never yields while it waits, so the actor could not answer calls."""
        await asyncio.sleep(YIELD_S)
        return await super()._step()

    def _make_and_handle_scaling_decision_for_non_running_worker_group(self, controller_state: Any) -> Any:
        """Release the resources of a failed group before the next decision."""
        if self._worker_group is not None:
            self._shutdown_worker_group()
        return super()._make_and_handle_scaling_decision_for_non_running_worker_group(controller_state)

    def _start_worker_group(self, num_workers: int, resources_per_worker: dict[str, float]) -> None:
        """Start the group in its reservation, which may only succeed now that an older group has released its own."""
        global _held
        room = self._scaling_policy.room
        if not room.poll():
            raise WorkerGroupStartupTimeoutError(num_workers)  # the policy then keeps waiting
        _held = room.shares, room.take()
        super()._start_worker_group(room.shares.num_workers, room.shares.worker_bundle)


class RayTrainer(TorchTrainer):
    """A TorchTrainer with a reservation (`room`), whose `fit` calls `meanwhile` regularly until the run ends.

    The argument of `meanwhile` is what the run waits for, or None.

    Ray has no public API for either (ray 2.60, data_parallel_trainer.py): `fit` creates its scaling policy itself,
    blocks in native code, and catches Ctrl-C to abort the controller. If `fit` ran in a thread, `ray.shutdown` on
    Ctrl-C could free objects that this code still uses, which sometimes causes a segmentation fault. Here Ctrl-C raises
    an ordinary KeyboardInterrupt in the calling thread, and no Ray call runs in the background.
    """

    def __init__(
        self,
        *args: Any,
        room: Reservation,
        resize_check_s: float,
        meanwhile: Callable[[Waiting | None], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.room, self.resize_check_s, self.meanwhile = room, resize_check_s, meanwhile

    def _create_default_callbacks(self) -> list[Any]:
        """Omit callbacks that start a process for nothing.

        The workers open their streams themselves (`row_stream`), so there are no data sets to hand over. A local Ray
        ends with this process, so nothing remains to clean up after a dead controller.
        """
        unneeded = (DatasetsCallback, *((PlacementGroupCleanerCallback,) if session.is_our_own() else ()))
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unneeded)]

    def _initialize_and_run_controller(self, **kwargs: Any) -> Any:
        kwargs["scaling_policy"] = _Policy(self.scaling_config, self.room, self.resize_check_s)
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        # The rest does the same as Ray's method, except for how it waits.
        variables = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **get_env_vars_to_propagate()}
        controller = (
            ray.remote(RunController)
            .options(num_cpus=0, label_selector=here, runtime_env=session.environment(variables))
            .remote(**kwargs)
        )
        ended, asked = controller.run.remote(), controller.waiting.remote()
        waiting = None
        while not ray.wait([ended], timeout=POLL_S)[0]:
            if ray.wait([asked], timeout=0)[0]:
                waiting, asked = ray.get(asked), controller.waiting.remote()
            self.meanwhile(waiting)
        ray.get(ended)
        return ray.get(controller.get_result.remote())

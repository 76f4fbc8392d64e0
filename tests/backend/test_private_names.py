"""Ray's private API that this package uses: each name exists and takes our arguments."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

V2 = "ray.train.v2._internal"
DATA = "ray.data._internal"
CONTROLLER = f"{V2}.execution.controller:TrainController"
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    (f"{CONTROLLER}._step", ("self",), {}),
    (f"{CONTROLLER}.run", ("self",), {}),
    (f"{CONTROLLER}.get_result", ("self",), {}),
    (f"{CONTROLLER}._shutdown_worker_group", ("self",), {}),
    (f"{CONTROLLER}._make_and_handle_scaling_decision_for_non_running_worker_group", ("self", "state"), {}),
    (f"{CONTROLLER}._start_worker_group", ("self", 1, {}), {}),
    (f"{V2}.execution.worker_group:WorkerGroup._create_placement_group", ("self", "scaling", "context"), {}),
    (f"{V2}.execution.worker_group.placement_group_handle:DefaultPlacementGroupHandle", ("group",), {}),
    (f"{V2}.execution.scaling_policy:ResizeDecision", (1, {}), {}),
    (f"{V2}.execution.scaling_policy:NoopDecision", (), {}),
    (f"{V2}.exceptions:WorkerGroupStartupTimeoutError", (1,), {}),
    (f"{V2}.constants:get_env_vars_to_propagate", (), {}),
    (f"{V2}.util:time_monotonic", (), {}),
    ("ray.train.torch:TorchTrainer._create_default_callbacks", ("self",), {}),
    ("ray.data:Dataset", ("plan", "context", "statistics"), {}),
    (f"{DATA}.stats:DatasetStats", (), {"metadata": {}, "parent": None}),
    (f"{DATA}.logical.interfaces:LogicalPlan", ("source", "context"), {}),
    (f"{DATA}.execution.operators.input_data_buffer:InputDataBuffer", ("context",), {"input_data": []}),
    (f"{DATA}.execution.interfaces:BlockEntry", ("reference", "metadata"), {}),
    (f"{DATA}.execution.interfaces:RefBundle", (["entry"],), {"owns_blocks": True, "schema": None}),
    (f"{DATA}.execution.interfaces:ExecutionResources.from_resource_dict", ({},), {}),
    (f"{DATA}.execution.operators.actor_pool_map_operator:get_draining_nodes", (), {}),
    (f"{DATA}.planner.planner:Planner.get_plan_fn", ("self", "operator"), {}),
    ("ray.experimental.internal_kv:_internal_kv_put", ("key", b"value"), {"namespace": b"n"}),
    ("ray.experimental.internal_kv:_internal_kv_del", ("key",), {"namespace": b"n"}),
    ("ray.experimental.internal_kv:_internal_kv_exists", ("key",), {"namespace": b"n"}),
    ("ray._private.state:available_resources_per_node", (), {}),
    ("ray._private.state:state.get_draining_nodes", (), {}),
    ("ray._private.authentication.authentication_utils:is_token_auth_enabled", (), {}),
    ("ray._private.grpc_utils:init_grpc_channel", ("address",), {}),
    ("ray._private.services:canonicalize_bootstrap_address", ("address",), {}),
    (
        "ray._private.authentication.authentication_token_setup:maybe_enable_token_auth_if_token_available",
        (),
        {"warn_if_disabled": False},
    ),
    ("ray.autoscaler.v2.sdk:get_cluster_status", ("address",), {}),
]


def find(name: str) -> Any:
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("name", "arguments", "named"), CALLS, ids=[name for name, _, _ in CALLS])
def test_a_private_name_takes_what_we_pass(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    inspect.signature(find(name)).bind(*arguments, **named)


def test_the_trainer_gives_its_controller_a_scaling_policy() -> None:
    """`RayTrainer` replaces `_initialize_and_run_controller`, and in it the policy."""
    assert "scaling_policy" in inspect.signature(find(CONTROLLER)).parameters
    assert "scaling_policy=" in inspect.getsource(find("ray.train.torch:TorchTrainer.fit"))
    assert "_initialize_and_run_controller" in inspect.getsource(find("ray.train.torch:TorchTrainer.fit"))


def test_the_scaling_policy_has_all_that_ray_train_asks_for() -> None:
    from advise_ray.backend.train_controller import _Policy

    assert find(f"{V2}.execution.scaling_policy:ScalingPolicy").__abstractmethods__
    assert not _Policy.__abstractmethods__


def test_ray_data_calls_what_a_stream_replaces() -> None:
    executor = inspect.getsource(find(f"{DATA}.execution.streaming_executor:StreamingExecutor"))
    assert "create_cluster_autoscaler(" in executor
    assert not find("advise_ray.backend.row_stream:_Reserved").__abstractmethods__
    pool = inspect.getsource(find(f"{DATA}.execution.operators.actor_pool_map_operator:_NodeAwareActorPool"))
    assert "get_draining_nodes()" in pool
    assert find(f"{DATA}.planner.planner:Planner")._DEFAULT_PLAN_FNS
    maps = inspect.getsource(find(f"{DATA}.execution.operators.map_operator:MapOperator"))
    assert "self._output_blocks_stats.append(" in maps or "self._output_blocks_stats.extend(" in maps
    state = inspect.getsource(find(f"{DATA}.execution.streaming_executor_state:process_completed_tasks"))
    assert "while op.has_next()" in state


def test_the_controller_has_what_we_read() -> None:
    source = inspect.getsource(find(CONTROLLER))
    assert "self._scaling_policy" in source
    assert "self._worker_group" in source
    assert "worker_group_cls" in source


def test_ray_takes_a_directory_for_its_files() -> None:
    assert 'kwargs.pop("_temp_dir"' in inspect.getsource(find("ray._private.worker:init"))

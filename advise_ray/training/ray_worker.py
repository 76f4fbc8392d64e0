"""The function of a Ray Train worker: it runs a `Worker` with the clips that Ray Data streams to it."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
import ray.train
from ray.util.metrics import Gauge
from ray.util.placement_group import PlacementGroup

from advise_ray.backend import process_env, shutdown_notice
from advise_ray.backend.reservation import loses_a_node
from advise_ray.errors import AdviseRayError, InterruptedRunError, unwrapped
from advise_ray.storage.retry import LASTING, patiently
from advise_ray.training import checkpoint
from advise_ray.training.clip_block import ClipBlock
from advise_ray.training.clip_stream import ClipStream
from advise_ray.training.worker_spec import WorkerSpec, streams


def run(settings: dict[str, Any]) -> dict[str, Any]:
    """Train. Ray Train calls this function on each worker.

    Args:
        settings: `spec` is an ObjectRef of the WorkerSpec.

    Returns:
        `{"error": message}` after an error that a restart would not fix; `{"interrupted": message}` if the run was told
        to end; else the return value of `Worker.result`.
    """
    process_env.collect_rarely()
    import torch  # here, because Ray Train's controller imports this file too, without torch

    from advise_ray.training.worker import Worker

    spec: WorkerSpec = ray.get(settings["spec"])
    context, group = ray.train.get_context(), ray.util.get_current_placement_group()
    assert group is not None
    try:
        blocks = _open_stream(spec, group) if streams(spec.config) else None  # decode actors start now
        worker = Worker(
            spec,
            videos=ray.get(spec.videos),
            weights=ray.get(spec.weights),
            device=ray.train.torch.get_device() if spec.use_gpu else torch.device("cpu"),
            rank=context.get_world_rank(),
            processes_on_node=context.get_local_world_size(),
            blocks=blocks,
            warned=lambda: loses_a_node(group),
            should_stop=lambda: shutdown_notice.was_given(str(spec.run_dir)),
        )
        gauges = {
            name: Gauge(f"advise_ray_train_{name}", "Value of a run's last epoch, over all workers.", tag_keys=("run",))
            for name in ("clips_per_s", "data_wait_fraction")
        }
        for _ in worker.epochs():
            for name, gauge in gauges.items():
                gauge.set(worker.state.metrics[f"rate/{name}"], tags={"run": spec.run_dir.name})
        return worker.result()
    except InterruptedRunError as error:
        return {"interrupted": str(error)}
    except AdviseRayError as error:
        # Not raised, because Ray Train would treat it as a failure of the machine and restart the run.
        return {"error": str(unwrapped(error))}
    except OSError as error:
        if error.errno not in LASTING:
            raise
        mended = f"fix this, then resume with: advise-ray train --resume {spec.run_dir}"
        return {"error": f"{error.filename or spec.run_dir}: {error.strerror}; {mended}"}


def _open_stream(spec: WorkerSpec, group: PlacementGroup) -> Generator[ClipBlock]:
    """Yield this worker's blocks, from the step of the last checkpoint on. The first block is requested at once."""
    last = patiently(lambda: checkpoint.latest(spec.run_dir))
    state = patiently(lambda: checkpoint.read_state(last)) if last else checkpoint.State()
    context = ray.train.get_context()
    blocks = ClipStream(
        spec.config,
        spec.schedule,
        spec.videos,
        state.step,
        group,
        context.get_world_rank(),
        context.get_world_size(),
        state.owes_validation(spec.schedule.steps_per_epoch),
    ).blocks()
    first = ThreadPoolExecutor(1).submit(next, blocks, None)

    def stream() -> Generator[ClipBlock]:
        with contextlib.closing(blocks):
            if (block := first.result()) is not None:  # None if the run has no steps left
                yield block
            yield from blocks

    return stream()

"""The function of a Ray Train worker: it runs a `Worker` with the clips that Ray Data streams to it."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import ray
import ray.train
from ray.util.metrics import Gauge

from advise_ray.backend import process_env, shutdown_notice
from advise_ray.errors import AdviseRayError, InterruptedRunError, unwrapped
from advise_ray.storage.retry import LASTING
from advise_ray.training.clip_block import ClipBlock
from advise_ray.training.worker_spec import WorkerSpec, streams


def run(settings: dict[str, WorkerSpec]) -> dict[str, Any]:
    """Train. Ray Train calls this function on each worker.

    Returns:
        `{"error": message}` after an error that a restart would not fix; `{"interrupted": message}` if the run was told
        to end; else the return value of `Worker.result`.
    """
    process_env.collect_rarely()
    import torch  # here, because Ray Train's controller imports this file too, without torch

    from advise_ray.training.worker import Worker

    spec = settings["spec"]
    context = ray.train.get_context()
    blocks = _open_stream(context.get_world_rank()) if streams(spec.config) else None  # decode actors start now
    try:
        worker = Worker(
            spec,
            videos=ray.get(spec.videos),
            weights=ray.get(spec.weights),
            device=ray.train.torch.get_device() if spec.use_gpu else torch.device("cpu"),
            rank=context.get_world_rank(),
            processes_on_node=context.get_local_world_size(),
            blocks=blocks,
            warned=lambda: ray.train.get_preemption_info() is not None,
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


def _open_stream(rank: int) -> Generator[ClipBlock]:
    """Yield this worker's blocks. The first block is requested at once. Worker 0 tells `Pace` how many it has taken."""
    shard = ray.train.get_dataset_shard("clips")
    blocks = iter(shard.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2))
    first = ThreadPoolExecutor(1).submit(next, blocks, None)

    def stream() -> Generator[ClipBlock]:
        pace = None
        begun = [block for block in [first.result()] if block is not None]  # empty if the run has no steps left
        for taken, block in enumerate(chain(begun, blocks), 1):
            if rank == 0:
                pace = pace or ray.get_actor(str(block["pace"][0]))
                pace.advance.remote(taken)
            yield ClipBlock.from_row(block)

    return stream()

"""Runs every video once through the frozen model on Ray Data: decode actors pass frames to model actors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pyarrow as pa
import ray
import ray.data
import torch

from advise_ray.backend import nodes, process_env, session
from advise_ray.backend.reservation import Places, for_run, reserved
from advise_ray.backend.row_stream import Block, stream_from_actor
from advise_ray.config import Config, worker_counts
from advise_ray.model.advise import AdViSe, empty_advise
from advise_ray.video.frames import DecodeFrames

AHEAD = 2
"""Groups in flight (being decoded, or decoded and not yet encoded) for each process that decodes or encodes."""
Function = Callable[[AdViSe, torch.device, Block], Block]
"""Processes the decoded frames of a group of videos, see `DecodeFrames`. It is pickled and sent to other processes."""


def encode_groups(
    groups: Callable[[], Iterable[pa.Table]],
    function: Function,
    config: Config,
    model: AdViSe,
    num_classes: int,
    *,
    everywhere: bool = False,
) -> Iterator[Block]:
    """Decode groups of videos (`frames.group_of`) on actors and apply `function`. Blocks come in any order.

    A single model on the CPUs of a local Ray that this process started runs in this process, without an actor. This
    saves the start of one process.

    Args:
        groups: returns the groups one after the other. It is pickled and called in another process.
        everywhere: run the model on every GPU, or on every node if there are no GPUs; see `nodes.everywhere`.

    Raises:
        UsageError: the processes of the configuration do not fit on the cluster, nor on the nodes it may add.
        ResourcesError: the cluster had no free room for them within `train.max_wait_s`.
    """
    session.connect()
    wanted = nodes.everywhere(config) if everywhere else config
    with reserved(for_run(wanted, nodes.plan(wanted)), config.train.max_wait_s) as (shares, group):
        most = max(shares.num_decode_actors, shares.num_workers)
        num_groups = sum(1 for _ in itertools.islice(groups(), most))  # or more
        workers, decoders = shares.num_workers, min(shares.num_decode_actors, num_groups)
        ahead = AHEAD * (decoders + workers)
        listed = ray.put(groups)

        def decode(dataset: ray.data.Dataset) -> ray.data.Dataset:
            return dataset.map_batches(
                DecodeFrames,
                fn_constructor_args=(config,),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=decoders),
                num_cpus=shares.cpus_per_decode_actor,
                ray_remote_args_fn=Places(group, workers, decoders),
            )

        def decode_and_encode(dataset: ray.data.Dataset) -> ray.data.Dataset:
            return decode(dataset).map_batches(
                _Model,
                fn_constructor_args=(config, num_classes, weights, function),
                batch_size=1,  # one group; Ray does not accept None for actors with GPUs
                zero_copy_batch=True,
                compute=ray.data.ActorPoolStrategy(size=min(workers, num_groups)),
                num_cpus=shares.cpus_per_worker,
                num_gpus=1 if shares.use_gpu else 0,
                runtime_env=session.environment(process_env.ENVIRONMENT),
                ray_remote_args_fn=Places(group, 0, workers),
            )

        read = partial(stream_from_actor, lambda: iter(ray.get(listed)()), ahead=ahead)
        if workers == 1 and not shares.use_gpu and session.is_our_own():
            yield from map(partial(function, model.eval(), torch.device("cpu")), read(decode))
        else:
            weights = [ray.put(model.state_dict())]
            yield from read(decode_and_encode)


class _Model:
    """An actor that holds the model in its own process, with the weights that the driver sends."""

    def __init__(self, config: Config, num_classes: int, weights: list[ray.ObjectRef], function: Function) -> None:
        use_gpu = bool(ray.get_gpu_ids())
        if not use_gpu:
            process_env.use_cores(worker_counts(config)[0])
        model = empty_advise(config, num_classes)
        model.load_state_dict(ray.get(weights[0]))
        self.device = torch.device("cuda" if use_gpu else "cpu")
        self.model, self.function = model.to(self.device).eval(), function

    def __call__(self, block: Block) -> Block:
        return self.function(self.model, self.device, block)

"""Time and memory of one training step of one model: the model, its clips, and the measurement."""

from __future__ import annotations

import functools
import gc
import itertools
import statistics
import time
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from advise_ray.backend.peak_memory import PeakMemory
from advise_ray.config import Config, IFMConfig, SFUConfig, load

if TYPE_CHECKING:
    import torch

    from advise_ray.training.clip_block import ClipBlock
    from advise_ray.training.learner import Learner

NUM_CLASSES = 4
WINDOWS = 3
Features = Literal["live", "cached"]


class Cost(TypedDict):
    """Time and memory of a step.

    Attributes:
        step_s: median time of a step in seconds, with the copy to the device.
        peak_bytes: bytes of parameters, gradients, optimizer state and activations: the highest resident memory during
            the steps (on CUDA: allocated memory), minus the memory of the process before the model is built.
        parameters_bytes, gradients_bytes, optimizer_bytes: the parts of it that are kept from step to step.
        activations_bytes: the rest of it: activations, the clips, and the workspace of kernels.
        trained_parameters: number of trained parameters.
    """

    step_s: float
    peak_bytes: int
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    trained_parameters: int


def measure(
    kind: str,
    ifm: str,
    clips: int,
    precision: str,
    features: Features,
    device: str,
    warm_up: int,
    steps: int,
    settings: tuple[str, ...] = (),
) -> Cost | None:
    """Measure a case, see `step.StepRow`. None: it does not fit in the memory of the GPU.

    Args:
        warm_up: number of steps before the measurement.
        steps: number of steps between two waits for the device.
        settings: see `step_config`.
    """
    import open_clip  # noqa: F401 (imported now, so that its code does not count as memory of the step)
    import torch

    gc.collect()
    memory = PeakMemory(torch.device(device))
    config = step_config(kind, ifm, clips, precision, *settings)
    try:
        learner = build_learner(config, features, torch.device(device))
        block = random_block(learner, features)
        memory.forget_peak()
        step_s = seconds_per_step(learner, block, warm_up=warm_up, steps=steps)
    except torch.OutOfMemoryError:
        return None
    peak_bytes = memory.peak_bytes()
    parameters_bytes = _num_bytes(learner.model.state_dict().values())
    gradients_bytes = _num_bytes(learner.parameters)
    optimizer_bytes = _num_bytes(value for state in learner.optimizer.state.values() for value in state.values())
    return {
        "step_s": step_s,
        "peak_bytes": peak_bytes,
        "parameters_bytes": parameters_bytes,
        "gradients_bytes": gradients_bytes,
        "optimizer_bytes": optimizer_bytes,
        "activations_bytes": peak_bytes - parameters_bytes - gradients_bytes - optimizer_bytes,
        "trained_parameters": sum(parameter.numel() for parameter in learner.model.temporal.parameters()),
    }


def step_config(kind: str, ifm: str, clips: int, precision: str, *settings: str) -> Config:
    """The paper's model (4 ResNet3D blocks, 256 → 512) on 7×7 cells, or the R3D-50. Random weights cost the same.

    Args:
        settings: `key=value` settings that replace these.
    """
    return load(
        None,
        [
            f"model.kind={kind}",
            f"model.ifm={{name: '{ifm}', weights: none, precision: bf16}}",
            "model.sfu={spatial_size: 7, temporal_centering: false}",
            f"train={{global_batch_size: {clips}, precision: {precision}}}",
            "data.clip.clips_per_video=1",
            *settings,
        ],
    )


def build_learner(config: Config, features: Features, device: torch.device) -> Learner:
    """The model on its device. With cached features it has no image model, as in training."""
    from advise_ray.model.advise import build_advise, cached_advise
    from advise_ray.model.ifm import kept_ifm
    from advise_ray.training import determinism
    from advise_ray.training.batch_schedule import Schedule
    from advise_ray.training.learner import Learner

    clips, size_px = config.train.global_batch_size, config.augment.crop_size_px
    if features == "live" and config.model.kind == "advise":
        model = build_advise(config, NUM_CLASSES, kept_ifm(config.model.ifm, size_px))
    else:
        shape = _features_shape(config) if features == "cached" else None
        kept_ifm.cache_clear()  # its memory is no part of this step
        gc.collect()
        model = build_advise(config, NUM_CLASSES) if shape is None else cached_advise(config, NUM_CLASSES, *shape)
    determinism.use_deterministic_kernels(False)
    everybody, nobody = np.arange(clips, dtype=np.int32), np.arange(0, dtype=np.int32)
    return Learner(config, Schedule(0, 1, 1, clips, 1, 1, everybody, nobody, 0), model, device)


def seconds_per_step(learner: Learner, block: ClipBlock, *, warm_up: int, steps: int) -> float:
    """Median over WINDOWS windows of the time of a step, with the copy of its block as in training."""
    from advise_ray.training.device_feed import DeviceFeed

    def blocks() -> Generator[ClipBlock]:
        while True:
            yield block

    feed, number, windows = iter(DeviceFeed(blocks(), learner.device)), itertools.count(), []
    for length in (warm_up, *[steps] * WINDOWS):
        started_s = time.perf_counter()
        for _ in range(length):
            numbers = learner.train_step(next(feed), next(number))
        numbers.tolist()  # waits for the device
        windows.append((time.perf_counter() - started_s) / length)
    feed.close()
    return statistics.median(windows[1:])


def random_block(learner: Learner, features: Features) -> ClipBlock:
    """A batch of random clips, or of random features of clips."""
    import torch

    from advise_ray.training.clip_block import ClipBlock
    from advise_ray.video.augment_draws import centre_crop

    config = learner.config
    size, clips, num_frames = config.augment, config.train.global_batch_size, config.data.clip.num_frames
    targets, weights = np.arange(clips) % NUM_CLASSES, np.ones(clips, dtype=np.float32)
    rng = np.random.default_rng(0)
    if features == "live":
        shape = (clips, num_frames, size.resize_height_px, size.resize_width_px, 3)
        frames = rng.integers(256, size=shape, dtype=np.uint8)
        return ClipBlock(targets, weights, frames=frames, draws=np.tile(centre_crop(size), (clips, 1)))
    channels, grid = _features_shape(config)
    read = torch.empty(
        clips, num_frames, *grid, channels, dtype=torch.float16, pin_memory=learner.device.type == "cuda"
    )
    read.copy_(torch.randn(read.shape, generator=torch.Generator().manual_seed(0)))
    return ClipBlock(targets, weights, features=read.numpy())


@functools.cache
def _shape(ifm: IFMConfig, sfu: SFUConfig, size_px: int) -> tuple[int, tuple[int, int]]:
    """Channels and grid of the features in a cache."""
    from advise_ray.model.ifm import kept_ifm
    from advise_ray.model.sfu import output_shape

    built = kept_ifm(ifm, size_px)
    return output_shape(sfu, built.feature_dim, built.grid_size)


def _features_shape(config: Config) -> tuple[int, tuple[int, int]]:
    return _shape(config.model.ifm, config.model.sfu, config.augment.crop_size_px)


def _num_bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)

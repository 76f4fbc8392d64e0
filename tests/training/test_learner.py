"""The training step on one worker and on two: which weights change, and which do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from advise_ray.config import AugmentConfig, Config, load
from advise_ray.model import augment
from advise_ray.model.advise import build_advise
from advise_ray.model.crops import resize_by_matrices
from advise_ray.model.ifm import build_ifm
from advise_ray.model.norm import synchronise_batch_norm
from advise_ray.model.transfer import to_device
from advise_ray.training.batch_schedule import Schedule
from advise_ray.training.clip_block import ClipBlock
from advise_ray.training.device_feed import DeviceBlock, on_device
from advise_ray.training.learner import Learner
from advise_ray.video.augment_draws import draw
from advise_ray.video.sampling import keyed_rng

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 50
NUM_CLASSES = 3


def learner(config: Config) -> Learner:
    nobody = np.arange(0)
    schedule = Schedule(0, 1, 1, 4, 1, 1, np.arange(4 * STEPS), nobody, 0)
    return Learner(config, schedule, build_advise(config, NUM_CLASSES), torch.device("cpu"))


def block(config: Config, step: int) -> DeviceBlock:
    rng = keyed_rng("block", step)
    size = config.augment
    shape = (4, config.data.clip.num_frames, size.resize_height_px, size.resize_width_px, 3)
    frames = rng.integers(256, size=shape, dtype=np.uint8)
    draws = np.stack([draw(size, rng) for _ in range(4)])
    targets = rng.integers(NUM_CLASSES, size=4)
    return on_device(ClipBlock(targets, np.ones(4, dtype=np.float32), frames, draws), torch.device("cpu"))


MODES = {
    "pretraining": (),
    "fine-tuning": ("task=action", "optim.weight_decay=0.1"),
    "linear probe": ("task=action", "model.freeze_tmm=true", "optim.weight_decay=0.1"),
    "attentive probe": ("model.freeze_tmm=true", "model.head={pooling: attention, num_layers: 1, num_heads: 4}"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ifm", ["test_efficientnet", "test_vit"])
def test_frozen_is_frozen(tiny: tuple[str, ...], mode: str, ifm: str) -> None:
    """After 50 steps and a validation, every parameter and buffer of what is frozen is bit-identical."""
    size = "augment={resize_height_px: 36, resize_width_px: 44, crop_size_px: 32, crop_scale: [0.3, 1]}"
    config = load(None, [*tiny, size, f"model.ifm.name=timm:{ifm}", "train.precision=bf16", *MODES[mode]])
    it = learner(config)
    before = {name: tensor.clone() for name, tensor in it.model.state_dict().items()}
    for step in range(STEPS):
        it.train_step(block(config, step), step)
    it.val_step(block(config, STEPS), torch.zeros(NUM_CLASSES, NUM_CLASSES))
    moved = {name for name, tensor in it.model.state_dict().items() if not torch.equal(tensor, before[name])}
    frozen = ("ifm.", "temporal.tmm.") if config.model.freeze_tmm else ("ifm.",)
    may_move = {name for name in before if not name.startswith(frozen)}
    assert moved == may_move, moved ^ may_move
    assert len(it.parameters) == len([name for name, _ in it.model.named_parameters() if not name.startswith(frozen)])


WORKER = """
import json, sys
import torch
import torch.distributed as dist
from advise_ray.config import load
from tests.training.test_learner import block, learner
rank, folder, settings = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
config = load(None, settings)
it = learner(config)
sent = []
def note(_, bucket):
    sent.append(bucket.buffer().nbytes)
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0] / 2)
it.trained.register_comm_hook(None, note)
for step in range(2):
    sent.clear()
    it.train_step(block(config, 2 * step + rank), step)
torch.save((sum(sent), it.model.state_dict()), f"{folder}/{rank}.pt")
dist.barrier()  # one that ends while the other is still at it can take a thread of Gloo's along
del it
dist.destroy_process_group()
"""


@pytest.mark.parametrize("mode", ["pretraining", "linear probe"])
def test_workers_exchange_gradients_of_what_is_trained_and_nothing_else(
    tiny: tuple[str, ...], tmp_path: Path, mode: str
) -> None:
    settings = [*tiny, *MODES[mode]]
    command = [sys.executable, "-c", WORKER]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path), json.dumps(settings)], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    (sent, first), (_, second) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    trained = learner(load(None, settings)).parameters
    assert sent == 4 * sum(parameter.numel() for parameter in trained)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_probe_leaves_the_norms_of_a_frozen_module_alone_between_workers(tiny: tuple[str, ...]) -> None:
    temporal = build_advise(load(None, [*tiny, "model.freeze_tmm=true"]), NUM_CLASSES).temporal
    names = [name for name, parameter in temporal.named_parameters() if parameter.requires_grad]
    synced = synchronise_batch_norm(temporal, torch.device("cpu"))
    assert [name for name, parameter in synced.named_parameters() if parameter.requires_grad] == names
    assert not any(module.training for module in synced.train().tmm.modules())


def test_a_run_that_was_begun_before_there_were_factors_goes_on(tiny: tuple[str, ...]) -> None:
    config = load(None, tiny)
    it, old = learner(config), learner(config)
    saved = old.optimizer.state_dict()
    for group in saved["param_groups"]:
        del group["factor"]
    old.optimizer.load_state_dict(saved)
    for each in (it, old):
        each.train_step(block(config, 0), 0)
    assert [group["lr"] for group in old.optimizer.param_groups] == [group["lr"] for group in it.optimizer.param_groups]


WAITING = {
    *("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero", "aten::masked_select"),
    *("aten::unique_dim", "aten::_unique2", "aten::bincount", "aten::repeat_interleave"),
    "aten::lift_fresh",
}
"""Kernels for whose result a process waits for its GPU.

The last one is called by `torch.tensor` of numbers in main memory, and by `to_device`, which does not wait.
"""


def called_by(function: Callable[..., object]) -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


class NoWaiting(TorchDispatchMode):
    """Refuses every kernel that would make the process wait for a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        assert name not in WAITING or (name == "aten::lift_fresh" and called_by(to_device)), name
        if name in ("aten::index", "aten::index_put_"):
            assert all(index is None or index.dtype not in (torch.bool, torch.uint8) for index in args[1]), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("train.precision=bf16", "task=action", "model.head={looks_weight: 1, normalise: true}"),
        ("pretext.masked_frames=1", "model.sfu.standardise=true", "optim.grad_clip=1"),
        ("model.tmm={arch: transformer, num_heads: 2}", "model.head={pooling: attention, num_heads: 2}"),
        ("data.deterministic=true", "model.tmm.arch=conv3d"),
    ],
)
@pytest.mark.parametrize("is_cached", [False, True], ids=["live", "cached"])
def test_a_step_never_waits_for_its_device(tiny: tuple[str, ...], settings: tuple[str, ...], is_cached: bool) -> None:
    config = load(None, [*tiny, *settings])
    it, given = learner(config), block(config, 0)
    hidden = torch.zeros(4, config.data.clip.num_frames, dtype=torch.bool)
    hidden[:, : config.pretext.masked_frames] = True
    given = replace(given, hidden=hidden)
    if is_cached:
        features = it.features(given).permute(0, 2, 3, 4, 1).half().numpy()
        given = on_device(replace(given.read, frames=None, draws=None, features=features), torch.device("cpu"))
        given = replace(given, hidden=hidden)
    confusion = torch.zeros(NUM_CLASSES, NUM_CLASSES)
    it.train_step(given, 0)  # the optimizer makes its state
    with NoWaiting():
        it.train_step(given, 1)
        it.val_step(given, confusion)
    assert confusion.sum() == 4


def test_augmentation_of_all_clips_together_never_waits() -> None:
    generator = np.random.default_rng(0)
    size = AugmentConfig(resize_height_px=40, resize_width_px=52, crop_size_px=24, crop_scale=(0.3, 1), grey=0.5)
    frames = torch.from_numpy(generator.integers(256, size=(8, 40, 52, 3), dtype=np.uint8))
    rows = np.stack([draw(size, generator) for _ in frames])
    ifm = build_ifm(load(None, []).model.ifm, 24)
    with NoWaiting():
        images = augment.apply_to_frames(frames, rows, 24, ifm)
        resized = resize_by_matrices(frames, rows[:, :4].astype(np.int64), 24, "bicubic")
    assert images.shape == resized.shape == (8, 24, 24, 3)


def test_a_test_for_waiting_finds_it() -> None:
    numbers = torch.ones(3)
    waiting: list[Callable[[], object]] = [
        lambda: numbers.sum().item(),
        lambda: float(numbers.max()),
        lambda: numbers[numbers > 0],
        lambda: numbers.nonzero(),
        lambda: torch.tensor([1.0]),
        lambda: bool((numbers > 0).all()),
    ]
    for wait in waiting:
        with NoWaiting(), pytest.raises(AssertionError):
            wait()

"""One worker of a run: trains from the last checkpoint to the end. Plain torch, independent of Ray."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from advise_ray.backend import process_env
from advise_ray.config import Config
from advise_ray.errors import InterruptedRunError, TrainingError
from advise_ray.storage.retry import patiently
from advise_ray.training import checkpoint, determinism
from advise_ray.training.batch_schedule import due
from advise_ray.training.checkpoint import State
from advise_ray.training.clip_block import ClipBlock
from advise_ray.training.clip_reader import read_here
from advise_ray.training.device_feed import DeviceBlock, DeviceFeed
from advise_ray.training.learner import Learner
from advise_ray.training.metrics_writer import MetricsWriter
from advise_ray.training.worker_spec import WorkerSpec
from advise_ray.video.manifest import Videos


@dataclass
class _Epoch:
    """The sums of one epoch on this worker. `waited_s`: the waiting time of the epochs before it."""

    waited_s: float
    started_s: float = field(default_factory=time.perf_counter)
    clips: float = 0.0
    val_loss: torch.Tensor | None = None
    confusion: torch.Tensor | None = None


class Worker:
    """One worker of a run. It continues from the last checkpoint of the run directory, if there is one.

    Args:
        weights: state dict with which the run starts.
        processes_on_node: number of processes that share the cores of this machine.
        blocks: this worker's share of the batches (`ClipReader`). If None, the worker reads the clips itself.
        warned: whether a node of the run will soon be gone, so that the run must save. Only the first worker calls it.
        should_stop: whether the run must save and end. Only the first worker calls it.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        videos: Videos,
        weights: dict[str, torch.Tensor],
        device: torch.device,
        rank: int = 0,
        processes_on_node: int = 1,
        blocks: Generator[ClipBlock] | None = None,
        warned: Callable[[], bool] = lambda: False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.warned, self.should_stop = warned, should_stop
        self.spec, self.config, self.schedule = spec, spec.config, spec.schedule
        self.rank, self.device = rank, device
        self.nondeterministic: list[str] = []  # operations, see `determinism.noting_others`
        _set_up_torch(self.config, device, processes_on_node)
        model = spec.empty_model()
        model.load_state_dict(weights)
        self.learner = Learner(self.config, self.schedule, model, device)
        self.writer = MetricsWriter(self.config, spec.run_dir, videos, rank, self.learner.num_workers)
        self.state = State(ifm_sha256=spec.ifm_sha256, manifest_sha256=spec.manifest_sha256, classes=spec.classes)
        last = patiently(lambda: checkpoint.latest(spec.run_dir))
        if last is not None:
            self.state = patiently(lambda: checkpoint.load(last, model.temporal, self.learner.optimizer))
        self.feed = DeviceFeed(
            blocks
            or read_here(
                self.config,
                self.schedule,
                videos,
                self.state.step,
                rank,
                self.learner.num_workers,
                pinned=device.type == "cuda",
                validation_first=self._owes_validation,
            ),
            device,
        )
        self.blocks = iter(self.feed)

    @property
    def _owes_validation(self) -> bool:
        return self.state.owes_validation(self.schedule.steps_per_epoch)

    def epochs(self) -> Iterator[int]:
        """Train to the end. Yields the number of each finished epoch, from 0; then `state.metrics` has its metrics.

        Raises:
            TrainingError: see `MetricsWriter.flush`; or the weights of the frozen image model have changed.
            InterruptedRunError: the run was told to end, and is saved. All workers raise it.
        """
        first = self.state.step // self.schedule.steps_per_epoch - self._owes_validation
        with contextlib.closing(self.blocks), determinism.noting_others(self.nondeterministic):
            for epoch in range(first, self.config.train.epochs):
                totals = _Epoch(self.feed.wait_s)
                self.state.metrics = {}  # so a checkpoint in mid-epoch has no metrics and is never the best
                while self.state.step < (epoch + 1) * self.schedule.steps_per_epoch:
                    self._train(epoch, totals)
                if self.schedule.validates(epoch):
                    self._validate(totals)
                stop = self._end_epoch(epoch, totals)
                yield epoch
                if stop and epoch + 1 < self.config.train.epochs:
                    raise self._interrupted()
        if self.config.data.features is None and self.learner.model.ifm.hash_weights() != self.spec.ifm_sha256:
            raise TrainingError("the image model's weights changed during training: this is a bug, please report it")

    def result(self) -> dict[str, Any]:
        """The values that the worker returns to the driver."""
        return {
            "clips_seen": self.state.clips_seen,
            "steps": self.state.step,
            "nondeterministic": self.nondeterministic,
        }

    def _train(self, epoch: int, totals: _Epoch) -> None:
        """Do one step. Its block is freed when it returns, so that the next but one gets the same memory."""
        block = self._next(totals)
        numbers = self.learner.train_step(block, self._step_of(block.read))
        self._end_step(epoch, block.read, numbers)

    def _next(self, totals: _Epoch) -> DeviceBlock:
        block = next(self.blocks)
        totals.clips += float(block.read.weights.sum())
        return block

    def _step_of(self, block: ClipBlock) -> int:
        """The number of optimizer steps done before this block, which must be the block of that step."""
        if not block.planned.train or block.planned.step != self.state.step:
            raise TrainingError(f"step {self.state.step} got the batch of step {block.planned.step}: this is a bug")
        return self.state.step

    def _end_step(self, epoch: int, block: ClipBlock, numbers: torch.Tensor) -> None:
        """Collect the step's metrics. Write them, and a checkpoint, if they are due.

        Raises:
            InterruptedRunError: the run was told to end.
        """
        step = self.state.step
        self.writer.block(block, step + 1)
        self.writer.train_step(epoch, step + 1, self.learner.learning_rate(step), numbers)
        self.state.step = step + 1
        if self.state.step % self.schedule.steps_per_epoch == 0:
            self._flush()  # `_end_epoch` saves
            return
        every_steps = self.config.train.checkpoint_every_steps
        saves = every_steps is not None and self.state.step % every_steps == 0
        if saves or self.writer.due:
            stop, warned = self._flush(), self.rank == 0 and self.warned()
            if saves or stop or warned:
                self._save()
            if stop:
                raise self._interrupted()

    def _validate(self, totals: _Epoch) -> None:
        """Score the validation clips.

        Raises:
            InterruptedRunError: the run was told to end.
        """
        classes = len(self.spec.classes)
        totals.val_loss = torch.zeros((), device=self.device)
        totals.confusion = torch.zeros(classes, classes, device=self.device)
        for _ in range(self.schedule.val_batches):
            self._score(totals.val_loss, totals.confusion, self._next(totals))
            if self.writer.due and self._flush():
                self._save()
                raise self._interrupted()

    def _score(self, loss: torch.Tensor, confusion: torch.Tensor, block: DeviceBlock) -> None:
        self.writer.block(block.read, self.state.step)
        loss += self.learner.val_step(block, confusion)

    def _flush(self) -> bool:
        """Write the collected metrics. Returns whether the run must end."""
        summed, stop = self.writer.flush(self.rank == 0 and self.should_stop())
        self.state.clips_seen += round(summed[2])
        self.state.epoch_totals = [a + float(b) for a, b in zip(self.state.epoch_totals, summed, strict=True)]
        return stop

    def _interrupted(self) -> InterruptedRunError:
        return InterruptedRunError(f"the run was told to end; step {self.state.step} is saved")

    def _end_epoch(self, epoch: int, totals: _Epoch) -> bool:
        """Write the epoch's metrics, and a checkpoint if it is due. Returns whether the run must end."""
        stop = self._flush()  # including the rejects of the validation videos
        loss, correct, clips = self.state.epoch_totals
        metrics = {"train/epoch_loss": loss / max(clips, 1), "train/epoch_top1": correct / max(clips, 1)}
        metrics |= self._val_metrics(totals) | self._rates(totals)
        self.writer.epoch(epoch, self.state.step, metrics)
        self.state.metrics = metrics
        self.state.epoch_totals = [0.0, 0.0, 0.0]
        every_steps = self.config.train.checkpoint_every_steps
        if (
            due(epoch + 1, self.config.train.checkpoint_every_epochs, self.config.train.epochs)
            or (every_steps is not None and self.state.step % every_steps == 0)
            or (self.rank == 0 and self.warned())
            or stop
        ):
            self._save()
        return stop

    def _val_metrics(self, totals: _Epoch) -> dict[str, float]:
        if totals.confusion is None or totals.val_loss is None:
            return {}
        confusion = self._sum_over_workers(torch.cat([totals.confusion.flatten(), totals.val_loss[None]]))
        loss, confusion = confusion[-1], confusion[:-1].reshape(totals.confusion.shape)
        clips = confusion.sum()
        if not clips:
            return {}
        metrics = {
            "val/loss": float(loss / clips),
            "val/top1": float(confusion.trace() / clips),
            "val/clips": float(clips),
        }
        if self.config.task == "prp":
            for rate, row in zip(self.config.data.clip.rates, range(len(confusion)), strict=True):
                metrics[f"val/top1_rate_{rate:g}"] = float(confusion[row, row] / max(confusion[row].sum(), 1))
        return metrics

    def _rates(self, totals: _Epoch) -> dict[str, float]:
        elapsed_s = time.perf_counter() - totals.started_s
        waits_s = [0.0] * self.learner.num_workers
        waits_s[self.rank] = self.feed.wait_s - totals.waited_s
        clips, *waits_s = self._sum_over_workers(torch.tensor([totals.clips, *waits_s], device=self.device)).tolist()
        return {
            "rate/clips_per_s": clips / elapsed_s,
            "rate/data_wait_fraction": sum(waits_s) / len(waits_s) / elapsed_s,
            "rate/data_wait_most_fraction": max(waits_s) / elapsed_s,
            "rate/epoch_s": elapsed_s,
        }

    def _sum_over_workers(self, tensor: torch.Tensor) -> NDArray[np.float64]:
        if self.learner.num_workers > 1:
            dist.all_reduce(tensor)
        numbers: NDArray[np.float64] = tensor.double().cpu().numpy()
        return numbers

    def _save(self) -> None:
        if self.rank == 0:
            model, optimizer = self.learner.model.temporal, self.learner.optimizer
            checkpoint.save(self.spec.run_dir, self.config, model, optimizer, self.state)


def _set_up_torch(config: Config, device: torch.device, processes_on_node: int) -> None:
    torch.manual_seed(config.seed)  # the same initial weights on all workers
    if device.type == "cpu":
        process_env.use_cores(processes_on_node)
    determinism.use_deterministic_kernels(config.data.deterministic)

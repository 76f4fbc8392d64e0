"""Writes the records of a run during training: metrics.jsonl, the training clips, the videos that failed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from advise_ray.config import Config
from advise_ray.errors import TrainingError
from advise_ray.storage import jsonl
from advise_ray.storage.parquet import write_table
from advise_ray.storage.retry import patiently
from advise_ray.training import metrics_lines
from advise_ray.training.clip_block import ClipBlock
from advise_ray.training.metrics_lines import MetricsLine
from advise_ray.video.manifest import Videos
from advise_ray.video.rejects import Reject, read_rejects, write_rejects

LOOK_EVERY_BATCHES = 10
"""Batches between two flushes. Each flush waits for the device and communicates with the other workers."""
LOOK_EVERY_S = 2.0
"""If batches are slow, flushes are about this time apart, so that a run reacts soon to Ctrl-C."""


class ClipRow(TypedDict):
    """A row of `clips/*.parquet`: a clip that was trained on. After a resume, the last write of a step counts.

    Attributes:
        epoch: number of the epoch, from 0.
        step: number of the step, from 1.
        worker: rank of the worker.
        video_id: id of the video.
        clip: number of the clip of this video in this epoch, from 0.
        rate_index: index of the clip's rate in `data.clip.rates`.
        frame_indices: positions of the frames in the video file.
        weight: 1 for a normal clip; 0 if it only fills the batch or its video cannot be read.
    """

    epoch: int
    step: int
    worker: int
    video_id: str
    clip: int
    rate_index: int
    frame_indices: list[int]
    weight: float


class MetricsWriter:
    """Collects the records of a worker. Rank 0 writes the sums over all workers; each worker writes its own clips.

    All workers must make the same calls in the same order.
    """

    def __init__(self, config: Config, run_dir: Path, videos: Videos, rank: int, num_workers: int) -> None:
        self.config = config
        self.run_dir = run_dir
        self.videos = videos
        self.rank = rank
        self.num_workers = num_workers
        self.path = run_dir / "metrics.jsonl"
        self.last_step, self.last_epoch = patiently(lambda: _last_written(self.path))
        self.rejects = patiently(lambda: read_rejects(run_dir / "rejects.parquet"))
        self.attempt = time.time_ns()
        if num_workers > 1:
            attempts = [self.attempt]
            dist.broadcast_object_list(attempts)
            self.attempt = attempts[0]
        self._steps: list[tuple[int, int, float, float, torch.Tensor]] = []
        self._clips: list[ClipRow] = []
        self._new_rejects: dict[str, str] = {}
        self._batches, self._next_look, self._looked_s = 0, 1, time.perf_counter()

    @property
    def due(self) -> bool:
        """Whether it is time to flush; true on all workers at the same batch."""
        return self._batches >= self._next_look

    def train_step(self, epoch: int, step: int, lr: float, totals: torch.Tensor) -> None:
        """Record a training step (from 1) with the return value of `Learner.train_step`, to be written by `flush`."""
        self._steps.append((epoch, step, time.time(), lr, totals))

    def block(self, block: ClipBlock, step: int) -> None:
        """Record a block's failed videos and, with `data.log_clips`, its training clips."""
        self._batches += 1
        self._new_rejects |= block.failures
        share = block.planned
        if not (self.config.data.log_clips and share.train):
            return
        assert block.rate_indices is not None
        assert block.frame_indices is not None
        columns = zip(share.videos, share.clips, block.rate_indices, block.weights, block.frame_indices, strict=True)
        for video, clip, rate_index, weight, frame_indices in columns:
            row = ClipRow(
                epoch=share.epoch,
                step=step,
                worker=self.rank,
                video_id=self.videos[video].video_id,
                clip=int(clip),
                rate_index=int(rate_index),
                frame_indices=frame_indices.tolist(),
                weight=float(weight),
            )
            self._clips.append(row)

    def flush(self, stop: bool = False) -> tuple[NDArray[np.float64], bool]:
        """Sum the records since the last flush over the workers, and write them.

        Args:
            stop: a yes or no that all workers must agree on. Only the value of the first worker counts.

        Returns:
            float64[3]: loss sum, correct clips and clips of these steps; and `stop` of the first worker.

        Raises:
            TrainingError: a loss is not finite, or too many videos have failed. All workers raise it.
        """
        batch_s = (time.perf_counter() - self._looked_s) / max(self._batches, 1)
        first = float(self.rank == 0)
        row = torch.tensor([[len(self._new_rejects), first * stop, first * batch_s, 0]])
        rows = torch.stack([totals for *_, totals in self._steps]) if self._steps else torch.zeros(0, 4)
        summed = torch.cat([rows, row.to(rows.device)])
        if self.num_workers > 1:
            dist.all_reduce(summed)
        numbers = summed.double().cpu().numpy()
        _, stop_first, batch_s, _ = numbers[-1]
        self._batches, self._looked_s = 0, time.perf_counter()
        self._next_look = int(np.clip(LOOK_EVERY_S / max(batch_s, 1e-9), 1, LOOK_EVERY_BATCHES))
        if self.rank == 0:
            self._write_steps(numbers[:-1])
        self._write_clips()
        if numbers[-1, 0]:
            self._collect_rejects()
        bad = np.flatnonzero(~np.isfinite(numbers[:-1]).all(axis=1))
        if len(bad):
            _, step, _, lr, _ = self._steps[int(bad[0])]
            raise TrainingError(
                f"step {step}: the loss or its gradient is not finite (learning rate {lr:.2g}); lower optim.lr, set "
                "optim.grad_clip, or use train.precision=fp32"
            )
        self._steps.clear()
        return numbers[:-1, :3].sum(axis=0), bool(stop_first)

    def epoch(self, epoch: int, step: int, values: dict[str, float]) -> None:
        """Write the line of a finished epoch (from 0)."""
        if self.rank == 0 and epoch > self.last_epoch:
            jsonl.append(
                self.path, [MetricsLine(time_s=time.time(), kind="epoch", epoch=epoch, step=step, values=values)]
            )
            self.last_epoch = epoch

    def _write_steps(self, numbers: NDArray[np.float64]) -> None:
        """Write the steps that the file lacks. Steps repeated after a crash are in it already, with the same values."""
        lines = []
        for (epoch, step, time_s, lr, _), (loss, correct, clips, grad_norm) in zip(self._steps, numbers, strict=True):
            if step > self.last_step:
                values = {
                    "train/loss": loss / max(clips, 1),
                    "train/top1": correct / max(clips, 1),
                    "optim/lr": lr,
                    "optim/grad_norm": grad_norm,
                }
                lines.append(MetricsLine(time_s=time_s, kind="step", epoch=epoch, step=step, values=values))
                self.last_step = step
        jsonl.append(self.path, lines)  # before a checkpoint that includes these steps

    def _write_clips(self) -> None:
        if self._clips:
            first_step = self._clips[0]["step"]
            path = self.run_dir / "clips" / f"{self.attempt}-step_{first_step:08d}-worker_{self.rank:03d}.parquet"
            patiently(lambda: path.parent.mkdir(exist_ok=True))
            write_table(pa.Table.from_pylist(self._clips), path)
            self._clips.clear()

    def _collect_rejects(self) -> None:
        gathered: list[dict[str, str]] = [self._new_rejects] * self.num_workers
        if self.num_workers > 1:
            dist.all_gather_object(gathered, self._new_rejects)
        known = len(self.rejects)
        for rejects in gathered:
            self.rejects.update(rejects)
        self._new_rejects = {}
        if len(self.rejects) == known:
            return
        if self.rank == 0:
            videos = self.videos.named(self.rejects)
            failed = sorted(self.rejects.items())
            rows = [Reject(video_id=i, path=videos[i].path, reason=reason) for i, reason in failed]
            write_rejects(rows, self.run_dir / "rejects.parquet")
        if len(self.rejects) > self.config.data.max_failed_fraction * len(self.videos):
            video_id, reason = min(self.rejects.items())
            raise TrainingError(
                f"{len(self.rejects)} of {len(self.videos)} videos cannot be decoded, more than "
                f"data.max_failed_fraction={self.config.data.max_failed_fraction} allows; the first: {video_id}: "
                f"{reason}; all are in {self.run_dir / 'rejects.parquet'}"
            )


def _last_written(path: Path) -> tuple[int, int]:
    """The last step and the last epoch of a metrics file. Removes an incomplete last line."""
    jsonl.reopen(path)
    lines = metrics_lines.read(path)
    last_step = max((line["step"] for line in metrics_lines.of_kind(lines, "step")), default=0)
    last_epoch = max((line["epoch"] for line in metrics_lines.of_kind(lines, "epoch")), default=-1)
    return last_step, last_epoch

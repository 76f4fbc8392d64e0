"""The training step and the validation step of one worker, in plain torch."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from advise_ray.config import Config
from advise_ray.model.advise import AdViSe
from advise_ray.model.norm import synchronise_batch_norm
from advise_ray.model.precision import DTYPES, arithmetic, autocast
from advise_ray.training.batch_schedule import Schedule
from advise_ray.training.device_feed import DeviceBlock
from advise_ray.training.optimizer import build_optimizer, learning_rate


class Learner:
    """The model on one worker. The trained part is wrapped in DDP and has an optimizer; the frozen part is not."""

    def __init__(self, config: Config, schedule: Schedule, model: AdViSe, device: torch.device) -> None:
        self.config = config
        self.schedule = schedule
        self.device = device
        self.dtype = arithmetic(DTYPES[config.train.precision], device.type)
        self.num_workers = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.model = model.to(device)
        # The same memory format as the features. Otherwise oneDNN and cuDNN convert the kernels in each step.
        model.temporal.to(memory_format=torch.channels_last_3d)
        self.trained: torch.nn.Module = model.temporal
        if self.num_workers > 1:
            model.temporal = synchronise_batch_norm(model.temporal, device)
            # The only buffers are the averages of the batch norms, which are equal on all workers.
            self.trained = DistributedDataParallel(
                model.temporal, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.parameters = model.temporal.trained_parameters()
        self.optimizer = build_optimizer(model.temporal, config.optim)

    def train_step(self, block: DeviceBlock, step: int) -> torch.Tensor:
        """Do one optimizer step on this worker's share of a batch. A GPU computes it later; nothing waits for it.

        Args:
            step: number of optimizer steps done before.

        Returns:
            float32[4] on the device, not yet summed over workers: sum of the clips' losses, correct clips, clips
            (by weight), and this worker's part of the gradient's norm.
        """
        # Dropout masks differ between workers. A repeated step has the same masks.
        torch.manual_seed((self.config.seed * 1_000_003 + step) * self.num_workers + self.rank)
        targets, weights = block.targets, block.weights
        total_weight = weights.sum()
        if self.num_workers > 1:
            dist.all_reduce(total_weight)
        features = self.features(block)
        self.trained.train()
        with autocast(self.config.train.precision, self.device.type):
            logits, errors = self._forward(features, block)
        smoothing = self.config.optim.label_smoothing
        losses = F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=smoothing)
        losses = (losses + self.config.pretext.masked_weight * errors) * weights
        # DDP averages gradients over workers; the loss is the mean over the clips of all workers.
        (losses.sum() * self.num_workers / total_weight.clamp(min=1)).backward()
        limit = self.config.optim.grad_clip or float("inf")
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step) * group.get("factor", 1.0)  # older checkpoints have no factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        correct = ((logits.argmax(1) == targets) * weights).sum()
        return torch.stack([losses.detach().sum(), correct, weights.sum(), grad_norm / self.num_workers])

    def _forward(self, features: torch.Tensor, block: DeviceBlock) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits, and the prediction error of the hidden frames, float[B] (0 if no frames are hidden)."""
        if not self.config.pretext.masked_frames:
            logits = self.trained(features)
            return logits, logits.new_zeros(len(logits))
        logits, errors = self.trained(features, block.hidden)
        return logits, errors.float()

    def learning_rate(self, step: int) -> float:
        """The learning rate of step `step` (from 0)."""
        return learning_rate(self.config.optim, step, self.schedule.steps_per_epoch, self.schedule.total_steps)

    @torch.inference_mode()
    def val_step(self, block: DeviceBlock, confusion: torch.Tensor) -> torch.Tensor:
        """Score this worker's share of a validation batch.

        Args:
            confusion: float32[classes, classes] on the device. Each clip's weight is added at [target, prediction].

        Returns:
            float32 scalar: sum of the clips' losses, without label smoothing.
        """
        features = self.features(block)
        self.model.temporal.eval()
        with autocast(self.config.train.precision, self.device.type):
            logits = self.model.temporal(features)
        confusion.index_put_((block.targets, logits.argmax(1)), block.weights, accumulate=True)
        return (F.cross_entropy(logits.float(), block.targets, reduction="none") * block.weights).sum()

    def features(self, block: DeviceBlock) -> torch.Tensor:
        """The features of the clips, [B, C, T, s, s] in `dtype`: augmented and encoded here, or read from the cache."""
        if block.read.features is not None:
            return self.model.cached_features(block.pictures, self.dtype)
        assert block.read.draws is not None
        from advise_ray.model import augment  # torchvision imports slowly, and cached features do not need it

        size_px = self.config.augment.crop_size_px
        images = augment.apply(block.pictures, block.read.draws, size_px, self.model.ifm)
        return self.model.features(images, self.dtype)

"""AdamW and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from advise_ray.config import OptimConfig


def build_optimizer(parameters: Iterable[torch.nn.Parameter], optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW; fused, since on many small tensors the plain one spends its time between kernels."""
    return torch.optim.AdamW(parameters, lr=optim.lr, weight_decay=optim.weight_decay, fused=True)


def learning_rate(optim: OptimConfig, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """The learning rate of step `step` (from 0): linear warm-up, then cosine to 0, or constant."""
    warmup_steps = min(optim.warmup_epochs * steps_per_epoch, total_steps)
    if step < warmup_steps:
        return optim.lr * (step + 1) / (warmup_steps + 1)
    if optim.schedule == "constant":
        return optim.lr
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return optim.lr * 0.5 * (1 + math.cos(math.pi * progress))

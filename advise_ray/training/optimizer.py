"""The AdamW optimizer, and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch

from advise_ray.config import OptimConfig
from advise_ray.model.advise import TemporalModel


def build_optimizer(model: TemporalModel, optim: OptimConfig) -> torch.optim.AdamW:
    """Build the AdamW optimizer. It is fused, which is faster for many small tensors.

    If `tmm_lr_factor` is not 1, the TMM is a parameter group of its own. A group's learning rate is multiplied by its
    `factor`.
    """
    trained = model.trained_parameters()
    if optim.tmm_lr_factor == 1:
        groups = [{"params": trained, "factor": 1.0}]
    else:
        of_tmm = {id(parameter) for parameter in model.tmm.parameters()}
        groups = [
            {"params": [each for each in trained if (id(each) in of_tmm) == is_tmm], "factor": factor}
            for is_tmm, factor in ((True, optim.tmm_lr_factor), (False, 1.0))
        ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=optim.lr, weight_decay=optim.weight_decay, fused=True
    )


def learning_rate(optim: OptimConfig, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """The learning rate of step `step` (from 0): linear warm-up, then cosine to 0, or constant."""
    warmup_steps = min(optim.warmup_epochs * steps_per_epoch, total_steps)
    if step < warmup_steps:
        return optim.lr * (step + 1) / (warmup_steps + 1)
    if optim.schedule == "constant":
        return optim.lr
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return optim.lr * 0.5 * (1 + math.cos(math.pi * progress))

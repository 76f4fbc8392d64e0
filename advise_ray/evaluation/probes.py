"""Probes on frozen embeddings: trains many settings at once and chooses one by cross-validation."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from advise_ray.model.heads import AttentivePool

LEARNING_RATES = (1e-4, 1e-3, 1e-2, 1e-1)
WEIGHT_DECAYS = (0.0, 1e-2, 1e-1, 1.0)
ATTENTIVE_LEARNING_RATES = (5e-4, 5e-3)
ATTENTIVE_WEIGHT_DECAYS = (1e-2, 1e-1)
FOLDS, ATTENTIVE_FOLDS = 5, 1
"""Number of folds (fifths of the training videos) that are held out in turn. Attentive probes are too slow for more."""
STEPS, ATTENTIVE_STEPS = 1000, 300
BATCH_CLIPS, ATTENTIVE_BATCH_CLIPS = 1024, 64


@dataclass(frozen=True)
class Setting:
    """Training settings of one probe (AdamW, cosine schedule)."""

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Probed:
    """The result of a probe.

    Attributes:
        scores: float64[m, C], class probabilities of each query, averaged over its clips.
        setting: the chosen setting.
        validation_top1: top-1 of each setting on the held-out training videos.
    """

    scores: NDArray[np.float64]
    setting: Setting
    validation_top1: dict[Setting, float]


class LinearProbes(nn.Module):
    """P independent linear classifiers, computed together."""

    def __init__(self, num_probes: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_probes, dim, num_classes) * 0.01)
        self.bias = nn.Parameter(torch.zeros(num_probes, 1, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[B, E] → logits float[P, B, C]."""
        return torch.baddbmm(self.bias, x.expand(len(self.weight), *x.shape), self.weight)


class AttentiveProbes(nn.Module):
    """P independent classifiers, each on the TMM's output pooled by attention with a learnt query."""

    def __init__(self, num_probes: int, dim: int, num_classes: int) -> None:
        super().__init__()
        num_heads = math.gcd(dim, 8)
        self.probes = nn.ModuleList(
            nn.Sequential(AttentivePool(dim, num_heads), nn.Linear(dim, num_classes)) for _ in range(num_probes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[B, E, T, s, s] → logits float[P, B, C]."""
        return torch.stack([probe(x) for probe in self.probes])


def probe(
    train: NDArray[np.floating],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    queries: NDArray[np.floating],
    num_classes: int,
    *,
    attentive: bool,
    seed: int,
    device: torch.device,
) -> Probed:
    """Choose a setting on held-out folds of the training videos, train it on all of them, and score the queries.

    Args:
        train: K clips of each training video: float[n, K, E], or float[n, K, E, T, s, s] if `attentive`.
        labels: int64[n].
        groups: int64[n]. Videos of one group (clips of one recording) are held out together.
        queries: same format as `train`, for the videos to classify.
    """
    torch.manual_seed(seed)
    rates = ATTENTIVE_LEARNING_RATES if attentive else LEARNING_RATES
    decays = ATTENTIVE_WEIGHT_DECAYS if attentive else WEIGHT_DECAYS
    settings = [Setting(lr, decay) for lr, decay in itertools.product(rates, decays)]
    held_out = fold_of(groups, seed)[None] == np.arange(ATTENTIVE_FOLDS if attentive else FOLDS)[:, None]
    held_out = held_out[held_out.any(axis=1) & ~held_out.all(axis=1)]
    normalise = _Normaliser(train)
    clips = normalise(train)
    fitted = _fit(clips, labels, ~held_out, settings, num_classes, attentive, device)
    top1 = {}
    for setting, model in zip(settings, fitted, strict=True):
        correct = _score(model, clips, device).argmax(axis=2) == labels
        top1[setting] = float(correct[held_out].mean()) if len(held_out) else math.nan
    best = max(settings, key=lambda setting: top1[setting]) if len(held_out) else settings[len(settings) // 2]
    everything = np.ones((1, len(labels)), dtype=bool)
    (final,) = _fit(clips, labels, everything, [best], num_classes, attentive, device)
    return Probed(_score(final, normalise(queries), device)[0], best, top1)


def fold_of(groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold (0 to 4) in which each row is held out, int64[n]. Groups are assigned to folds evenly at random."""
    _, group = np.unique(groups, return_inverse=True)
    return (np.random.default_rng(seed).permutation(group.max() + 1) % 5)[group]


class _Normaliser:
    """Scales channels to mean 0 and deviation 1 over the training clips (parameter-free batch norm, as in MAE)."""

    def __init__(self, train: NDArray[np.floating]) -> None:
        axes = tuple(axis for axis in range(train.ndim) if axis != 2)
        self.mean = train.mean(axis=axes, keepdims=True, dtype=np.float64)
        self.std = train.std(axis=axes, keepdims=True, dtype=np.float64) + 1e-6

    def __call__(self, clips: NDArray[np.floating]) -> NDArray[np.float32]:
        return ((clips - self.mean) / self.std).astype(np.float32)


def _fit(
    clips: NDArray[np.float32],
    labels: NDArray[np.int64],
    used: NDArray[np.bool_],
    settings: list[Setting],
    num_classes: int,
    attentive: bool,
    device: torch.device,
) -> list[nn.Module]:
    """Train P probes of each setting on the same batches. `used` bool[P, n] selects each probe's training videos."""
    kind = AttentiveProbes if attentive else LinearProbes
    models: list[nn.Module] = [kind(len(used), clips.shape[2], num_classes).to(device) for _ in settings]
    groups = [
        {"params": list(model.parameters()), "lr": setting.lr, "weight_decay": setting.weight_decay}
        for model, setting in zip(models, settings, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups)
    steps = ATTENTIVE_STEPS if attentive else STEPS
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    every_clip = torch.from_numpy(clips).flatten(0, 1)
    num_clips = clips.shape[1]
    targets = torch.from_numpy(labels).repeat_interleave(num_clips)
    weights = torch.from_numpy(used).float().repeat_interleave(num_clips, dim=1)
    batch_size = min(ATTENTIVE_BATCH_CLIPS if attentive else BATCH_CLIPS, len(every_clip))
    for _ in range(steps):
        batch = torch.randint(len(every_clip), (batch_size,))
        x, y, weight = (tensor.to(device) for tensor in (every_clip[batch], targets[batch], weights[:, batch]))
        loss = torch.zeros((), device=device)
        for model in models:
            logits = model(x)
            losses = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(used)), reduction="none").view_as(weight)
            loss = loss + (losses * weight).sum() / batch_size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return models


@torch.no_grad()
def _score(model: nn.Module, clips: NDArray[np.float32], device: torch.device) -> NDArray[np.float64]:
    """Class probabilities averaged over each video's clips: float32[n, K, …] → float64[P, n, C]."""
    scores = [
        model(torch.from_numpy(videos).flatten(0, 1).to(device)).softmax(-1).unflatten(1, (len(videos), -1)).mean(2)
        for videos in np.array_split(clips, max(1, math.ceil(clips.shape[0] * clips.shape[1] / BATCH_CLIPS)))
    ]
    return torch.cat(scores, dim=1).double().cpu().numpy()

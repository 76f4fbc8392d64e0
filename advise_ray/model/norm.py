"""Batch norm with statistics over the global batch of all workers, also on CPUs.

torch's SyncBatchNorm rejects CPU tensors if a process group exists.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@contextlib.contextmanager
def kept_averages(module: nn.Module) -> Iterator[None]:
    """Context in which batch norms in training mode do not update their running averages."""
    norms = [child for child in module.modules() if isinstance(child, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


class CrossWorkerBatchNorm(_BatchNorm):
    """Batch norm over all workers, for any number of axes after the channels. All workers need equal batch sizes."""

    def _check_input_dim(self, x: torch.Tensor) -> None:
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise float[B, C, …]; the shape stays."""
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        # The mean first, then the mean square of the differences: stable if |mean| >> std, as in torch's formulation.
        # Computed in fp32 also if autocast gives bf16.
        mean = _mean_over_workers(x.mean(axes, dtype=torch.float32))
        centred = x - mean.view(shape)
        variance = _mean_over_workers(centred.square().mean(axes))
        self._update_running(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        count *= dist.get_world_size()
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), momentum)
        self.num_batches_tracked += 1


class _SumOverWorkers(torch.autograd.Function):
    """A sum over workers with gradients, because the input of each worker changes the losses of all workers."""

    @staticmethod
    def forward(_ctx: Any, local: torch.Tensor) -> torch.Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


def _mean_over_workers(local: torch.Tensor) -> torch.Tensor:
    summed: torch.Tensor = _SumOverWorkers.apply(local)
    return summed / dist.get_world_size()


def synchronise_batch_norm(module: ModuleT, device: torch.device) -> ModuleT:
    """Replace every batch norm by one over all workers. Names and values in the state dict do not change."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            synced = CrossWorkerBatchNorm(
                child.num_features, eps=child.eps, momentum=child.momentum, affine=child.affine
            )
            synced.load_state_dict(child.state_dict())
            trained = child.weight is not None and child.weight.requires_grad
            setattr(module, name, synced.requires_grad_(trained).train(child.training))
        else:
            synchronise_batch_norm(child, device)
    return module

"""Copies arrays to a device without waiting for the copy."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray


def to_device(array: NDArray[Any] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return an array as a tensor on a device. On a CPU it shares the array's memory.

    To a GPU it is copied through page-locked memory, in the order of the current stream. The process goes on at once,
    and may overwrite the array, unless the array itself is page-locked.
    """
    tensor = torch.as_tensor(array)
    if device.type != "cuda":
        return tensor
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)

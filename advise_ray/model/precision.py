"""Number formats of weights, and of the arithmetic on each device."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""CPU flags in /proc/cpuinfo; the last one is for Arm."""


@functools.cache
def computes_in_bf16(device_type: str) -> bool:
    """Return whether a device has bf16 instructions. Without them torch emulates bf16, which is very slow on CPUs."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    with contextlib.suppress(OSError):
        return not BF16_CPU_FLAGS.isdisjoint(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    return False


def arithmetic(dtype: torch.dtype, device_type: str) -> torch.dtype:
    """Return the format in which a device computes with weights of `dtype`: `dtype`, or fp32 if `dtype` is slow."""
    if dtype == torch.bfloat16 and not computes_in_bf16(device_type):
        return torch.float32
    if dtype == torch.float16 and device_type == "cpu":
        return torch.float32
    return dtype


def notes_for_cpu(formats: Mapping[str, str]) -> list[str]:
    """Return notes about settings (key → format) whose format this CPU replaces by fp32."""
    keys = [key for key, name in formats.items() if arithmetic(DTYPES[name], "cpu") != DTYPES[name]]
    return [f"{', '.join(keys)}: this CPU has no instructions for this format and computes in fp32"] if keys else []


def autocast(precision: str, device_type: str) -> torch.autocast:
    """Return the autocast context of the trained part, for `train.precision` and the device."""
    dtype = arithmetic(DTYPES[precision], device_type)
    return torch.autocast(device_type, torch.bfloat16, enabled=dtype == torch.bfloat16)

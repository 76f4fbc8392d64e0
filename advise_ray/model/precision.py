"""Number formats: what weights are kept in, and what a device computes in."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As Linux names them; the last is Arm's."""


@functools.cache
def computes_in_bf16(device_type: str) -> bool:
    """Whether a device has instructions for it. Without them torch does it all the same, on a CPU as slowly as it can:
    a product of 1024×1024 matrices at 0.8 GFLOP/s where fp32 gave 76 (a Zen 3 with AVX2, 2 cores, torch 2.14)."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    with contextlib.suppress(OSError):
        return not BF16_CPU_FLAGS.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    return False


def arithmetic(dtype: torch.dtype, device_type: str) -> torch.dtype:
    """What a device computes in with weights of `dtype`: that, or fp32 where it would be slow."""
    if dtype == torch.bfloat16 and not computes_in_bf16(device_type):
        return torch.float32
    if dtype == torch.float16 and device_type == "cpu":
        return torch.float32
    return dtype


def notes_for_cpu(formats: Mapping[str, str]) -> list[str]:
    """What a person should know of settings (key → format) that this CPU computes otherwise than they say."""
    keys = [key for key, name in formats.items() if arithmetic(DTYPES[name], "cpu") != DTYPES[name]]
    return [f"{', '.join(keys)}: this CPU has no instructions for it, and computes in fp32"] if keys else []


def autocast(precision: str, device_type: str) -> torch.autocast:
    """The context in which what is trained is computed, as `train.precision` says and the device can."""
    dtype = arithmetic(DTYPES[precision], device_type)
    return torch.autocast(device_type, torch.bfloat16, enabled=dtype == torch.bfloat16)

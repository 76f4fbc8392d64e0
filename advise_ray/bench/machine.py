"""Describes the machine of a benchmark."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TypedDict


class Hardware(TypedDict):
    """The machine of a benchmark.

    Attributes:
        cpu: model of the CPU.
        cores: number of cores that this process may use.
        memory_bytes: size of the main memory.
        device: name of the GPU, or `cpu`.
    """

    cpu: str
    cores: int
    memory_bytes: int
    device: str


class Environment(TypedDict):
    """The part that the JSON of every benchmark has: the machine, and package → version."""

    machine: Hardware
    versions: dict[str, str]


def machine() -> Environment:
    """Describe this machine and its packages."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return {
        "machine": {
            "cpu": cpu,
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        },
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch", "ray", "open_clip_torch", "timm", "decord2", "av")
        },
    }

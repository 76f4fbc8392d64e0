"""Checks whether a machine can run the package; each problem comes with a solution."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from advise_ray.config import Config
from advise_ray.errors import AdviseRayError, ConfigError

LEAST_DISK_BYTES = 5 * 2**30
LEAST_SHM_BYTES = 2 * 2**30
"""Minimum free shared memory. Ray keeps decoded clips there; if it is too small, Ray uses the disk, which is slower."""
PACKAGES = ("torch", "torchvision", "ray", "mlflow", "timm", "open_clip_torch", "decord2", "av", "pyarrow")


@dataclass(frozen=True)
class Check:
    """The result of one check: what was found and, if it is a problem, what to do."""

    name: str
    ok: bool
    found: str


def examine(config: Config) -> list[Check]:
    """Check everything that a run with this configuration needs."""
    return [_versions(), _devices(), _decoders(), _weights(config), _tracking(config), _disk(config), _shared_memory()]


def _versions() -> Check:
    found = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return Check("versions", True, f"python {platform.python_version()}, " + ", ".join(found))


def _devices() -> Check:
    import torch

    from advise_ray.model.precision import computes_in_bf16

    cpus = len(os.sched_getaffinity(0))
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    bf16 = "with bf16" if computes_in_bf16("cpu") else "without bf16 instructions (they compute in fp32)"
    return Check("devices", True, f"{cpus} CPUs {bf16}, GPUs: {', '.join(gpus) or 'none'}")


def _decoders() -> Check:
    """Write a video, and read it with both decoders."""
    import tempfile

    import numpy as np

    from advise_ray.video.decode import decode
    from advise_ray.video.probe import probe
    from advise_ray.video.synth import synthesize

    with tempfile.TemporaryDirectory() as folder:
        try:
            synthesize(Path(folder), 1, 0)
            video = next(Path(folder).rglob("*.mp4"))
            info = probe(video)
            for decoder in ("decord", "pyav"):
                decode(
                    video, np.asarray([0, info.num_frames - 1], np.int64), height_px=240, width_px=320, decoder=decoder
                )
        except AdviseRayError as error:
            return Check("decoders", False, f"{error}; reinstall decord2 and av")
    agree = "agree" if info.decoder == "decord" else "do not agree: the slower PyAV will be used"
    return Check("decoders", info.decoder == "decord", f"decord and PyAV read H.264 and {agree}")


def _weights(config: Config) -> Check:
    from advise_ray.model.ifm import build_ifm

    try:
        ifm = build_ifm(config.model.ifm, config.augment.crop_size_px)
    except ConfigError as error:
        return Check("weights", False, str(error))
    grid = "×".join(map(str, ifm.grid_size))
    return Check(
        "weights", True, f"{config.model.ifm.name}, {ifm.feature_dim} channels on {grid}, {ifm.hash_weights()[:12]}"
    )


def _tracking(config: Config) -> Check:
    from advise_ray import tracking

    try:
        tracking.check(config)
    except AdviseRayError as error:
        return Check("mlflow", False, str(error))
    return Check("mlflow", True, tracking.tracking_uri(config))


def _disk(config: Config) -> Check:
    folder = Path(config.storage.path)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Check("disk", False, f"{folder} cannot be written; set storage.path")
    free = shutil.disk_usage(existing).free
    found = f"{free / 2**30:.0f} GiB free at {folder}"
    if free < LEAST_DISK_BYTES:
        return Check("disk", False, f"only {found}; free some space, or set storage.path")
    return Check("disk", True, found)


def _shared_memory() -> Check:
    shm = Path("/dev/shm")  # noqa: S108
    if not shm.exists():
        return Check("shared memory", True, "no /dev/shm on this machine: Ray uses the disk")
    free = shutil.disk_usage(shm).free
    found = f"{free / 2**30:.1f} GiB free in /dev/shm"
    if free < LEAST_SHM_BYTES:
        return Check("shared memory", False, f"only {found}; in a container, start it with --shm-size=8g")
    return Check("shared memory", True, found)

"""Checkpoints: the trained weights, the optimizer, the progress and the configuration.

A checkpoint does not hold the weights of the frozen image model, only its name (in the configuration) and its hash.

`checkpoints/step_00000120/` holds `model.safetensors` (TMM and head), `optimizer.pt`, `state.json` and `config.yaml`.
The folder gets its final name only when it is complete.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open

from advise_ray.config import Config, flatten, to_yaml
from advise_ray.config import load as load_config
from advise_ray.errors import ConfigError, UsageError
from advise_ray.model.advise import TemporalModel
from advise_ray.storage.atomic import Content, exists, write_synced
from advise_ray.storage.retry import patiently

log = logging.getLogger("advise_ray")


@dataclass
class State:
    """The progress of a run.

    Attributes:
        step: optimizer steps done.
        clips_seen: training clips so far, without those of weight 0.
        epoch_totals: sums over the training steps of the unfinished epoch: loss, correct clips, clips.
        metrics: metrics of the epoch that ended at this step; empty otherwise.
        ifm_sha256: hash of the image model's weights with which the TMM was trained.
        manifest_sha256: hash of the manifest's rows (`pool.hash_videos`), on which the order of the clips depends.
        classes: class names of the head, in the order of its outputs.
    """

    step: int = 0
    clips_seen: int = 0
    epoch_totals: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    metrics: dict[str, float] = field(default_factory=dict)
    ifm_sha256: str = ""
    manifest_sha256: str = ""
    classes: list[str] = field(default_factory=list)

    def owes_validation(self, steps_per_epoch: int) -> bool:
        """Whether the run ended after the last step of an epoch, but before the end of its validation."""
        return self.step > 0 and self.step % steps_per_epoch == 0 and not self.metrics


def save(run_dir: Path, config: Config, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: State) -> Path:
    """Write a checkpoint. Then delete all others except the last `train.keep_checkpoints` and the best one.

    Raises:
        OSError: the disk is full, access is denied, or the storage did not answer for PATIENCE_S.
    """
    path = run_dir / "checkpoints" / f"step_{state.step:08d}"
    # Python writes the files: its OSError distinguishes a full disk from missing storage. The libraries' errors do not.
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    optimizer_bytes = io.BytesIO()
    torch.save(optimizer.state_dict(), optimizer_bytes)
    files: dict[str, Content] = {
        "model.safetensors": safetensors.torch.save(tensors),
        "optimizer.pt": optimizer_bytes.getbuffer(),
        "config.yaml": to_yaml(config),
        "state.json": json.dumps(dataclasses.asdict(state)),
    }
    patiently(lambda: _write(path, files))
    try:
        patiently(lambda: _delete_others(run_dir, config.train.keep_checkpoints))
    except OSError as error:
        log.warning("cannot delete an old checkpoint (%s: %s); the run continues", error.filename, error.strerror)
    return path


def _write(path: Path, files: Mapping[str, Content]) -> None:
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(exist_ok=True)  # without its parents: storage that is not mounted must not get a new run
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, content in files.items():
        write_synced(partial / name, content)
    if exists(path):  # left from before a crash, if the step was repeated
        _take_name(path)
    partial.rename(path)


def _take_name(path: Path) -> Path:
    """Rename a checkpoint before it is deleted: half of a checkpoint must not have the name of a whole one."""
    old = path.with_name(path.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    return path.rename(old)


def _delete_others(run_dir: Path, keep: int) -> None:
    """Delete all checkpoints but the last `keep` and the best, and parts that killed processes have left."""
    kept = {*list_checkpoints(run_dir)[-keep:], best(run_dir)}
    for path in sorted((run_dir / "checkpoints").iterdir(), reverse=True):  # `step_1.old` before `step_1`
        if path not in kept and re.fullmatch(r"step_\d+(\.partial|\.old)?", path.name):
            try:
                shutil.rmtree(path if path.suffix else _take_name(path))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):  # NFS keeps files that another process reads
                    raise


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first.

    Raises:
        OSError: the run directory does not exist (storage not mounted?), or cannot be read.
    """
    folder = run_dir / "checkpoints"
    named = [path for path in folder.iterdir() if re.fullmatch(r"step_\d+", path.name)] if exists(folder) else []
    return sorted(path for path in named if exists(path / "state.json"))  # earlier versions could leave parts of one


def latest(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run; None if there is none yet. Raises OSError, as `list_checkpoints`."""
    checkpoints = list_checkpoints(run_dir)
    return checkpoints[-1] if checkpoints else None


def best(run_dir: Path) -> Path | None:
    """The checkpoint with the highest `val/top1`; the earliest if several are equal. Without validation: the latest."""
    checkpoints = list_checkpoints(run_dir)
    scores = [read_state(path).metrics.get("val/top1") for path in checkpoints]
    scored = [(score, -index) for index, score in enumerate(scores) if score is not None]
    return checkpoints[-max(scored)[1]] if scored else latest(run_dir)


def step_of(path: Path) -> int:
    """The number of optimizer steps of a checkpoint, from the name of its folder."""
    return int(path.name.rpartition("_")[2])


def read_state(path: Path) -> State:
    """The progress that a checkpoint holds."""
    return State(**json.loads((path / "state.json").read_text(encoding="utf-8")))


def load(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None) -> State:
    """Load a checkpoint into the model, and into the optimizer if it is given. Returns the progress.

    Raises:
        UsageError: names or shapes of the checkpoint's tensors differ from the model's.
    """
    _fill(model, safetensors.torch.load((path / "model.safetensors").read_bytes()), path)
    if optimizer is not None:
        content = io.BytesIO((path / "optimizer.pt").read_bytes())
        optimizer.load_state_dict(torch.load(content, weights_only=True, map_location="cpu"))
    return read_state(path)


def init_tmm(source: Path, config: Config, temporal: TemporalModel, ifm_sha256: str) -> None:
    """Load the TMM from a checkpoint, or from the best checkpoint of a run (`model.init_from`).

    The running averages of the TMM's input are loaded too. The head keeps its initial weights.

    Raises:
        ConfigError: there is no checkpoint, or its TMM was trained on other features or has another shape.
    """
    path = find(source, "model.init_from")
    check_features(path, config, ifm_sha256, "model.init_from")
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    for name, part in (("tmm", temporal.tmm), ("standardise", temporal.standardise)):
        if part is not None:
            own = {key.removeprefix(f"{name}."): tensors[key] for key in tensors if key.startswith(f"{name}.")}
            _fill(part, own, path)


def find(source: Path, option: str) -> Path:
    """Return `source` if it is a checkpoint, or the best checkpoint if it is a run.

    Raises:
        ConfigError: `source` is neither a checkpoint nor a run with one. The message names `option`.
    """
    is_checkpoint = (source / "model.safetensors").is_file()
    path = source if is_checkpoint else best(source) if source.is_dir() else None
    if path is None:
        problem = f"{option}: {source} is neither a checkpoint nor a run that has one"
        raise ConfigError([f"{problem}; name a run's directory, or one of its checkpoints/step_…"])
    return path


def check_features(path: Path, config: Config, ifm_sha256: str, option: str) -> None:
    """Check that a checkpoint's TMM was trained with the same features and the same architecture.

    Raises:
        ConfigError: the features or the architecture differ. The message names `option`.
    """
    theirs, ours = flatten(load_config(path / "config.yaml")), flatten(config)
    keys = [key for key in ours if key.startswith(("model.kind", "model.ifm.", "model.sfu.", "model.tmm."))]
    if config.model.kind == "r3d50":
        keys = ["model.kind"]
    same_weights = ifm_sha256 == read_state(path).ifm_sha256
    free = ("model.ifm.precision", "model.ifm.compile", *(["model.ifm.weights"] if same_weights else []))
    differing = [key for key in keys if theirs[key] != ours[key] and key not in free]
    if differing:
        raise ConfigError(
            [f"{key}: {ours[key]}, but the TMM of {option} was trained with {theirs[key]}" for key in differing]
        )
    # The hash also depends on the number format, and on the size to which positional embeddings were resized.
    comparable = all(theirs[key] == ours[key] for key in ("model.ifm.precision", "augment.crop_size_px"))
    if comparable and not same_weights:
        raise ConfigError([f"model.ifm.weights: the TMM of {option} was trained with other weights (by their hash)"])


def num_classes(path: Path) -> int:
    """Number of classes of a checkpoint's head."""
    with safe_open(path / "model.safetensors", "pt") as file:
        last = max((key for key in file.keys() if key.startswith("head.") and key.endswith(".bias")), key=_layer)  # noqa: SIM118
        return int(file.get_slice(last).get_shape()[0])


def _layer(key: str) -> int:
    return int(key.split(".")[1])


def _fill(module: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    differing = sorted(
        name for name in {*tensors, *own} if name not in tensors or name not in own or tensors[name].shape != own[name]
    )
    if differing:
        raise UsageError(
            f"{path}: made for another model; {len(differing)} tensors differ, such as {differing[0]}; "
            f"its own configuration is {path / 'config.yaml'}"
        )
    module.load_state_dict(tensors)

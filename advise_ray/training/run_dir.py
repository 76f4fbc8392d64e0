"""Creates the directory of a run, and reads the run's configuration, even if the directory was moved."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from advise_ray.config import Config, flatten, load, overrides_of, to_yaml
from advise_ray.errors import ConfigError, UsageError
from advise_ray.storage.atomic import exists, write_whole
from advise_ray.storage.lock import hold_lock
from advise_ray.storage.retry import patiently
from advise_ray.video.rejects import write_rejects

log = logging.getLogger("advise_ray")

PLACES = ("data.manifest", "data.features", "model.init_from", "model.ifm.weights", "storage.path", "tune.finetune")
"""Keys with paths. They follow a run directory that was moved together with them."""
MACHINE = ("train.num_workers", "train.cpus_per_worker", "train.use_gpu", "train.max_wait_s", "train.max_failures")
CHANGEABLE = (*PLACES, "tracking.uri", "tracking.experiment", *MACHINE, "train.grace_s", "train.epochs")
"""Keys that a resumed run may change."""


def run_dir_of(config: Config) -> Path:
    """`<storage.path>/<tracking.run_name>`. A run without a name is named by its task and the time."""
    name = config.tracking.run_name or f"{config.task}-{datetime.now():%Y%m%d-%H%M%S}"
    return Path(config.storage.path) / name


def create(config: Config) -> Path:
    """Create the directory of a new run, with its configuration, and return its path.

    Raises:
        UsageError: a run of this name exists, or another process has just created it.
    """
    first = run_dir = run_dir_of(config)
    try:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(2):
            try:
                run_dir.mkdir()
                break
            except FileExistsError:
                refuse_existing(config)
                run_dir = first.with_name(f"{first.name}-{number}")
    except OSError as error:
        raise UsageError(f"storage.path: cannot create {run_dir}: {error.strerror}") from None
    write_config(config, run_dir)
    return run_dir


def refuse_existing(config: Config) -> None:
    """Raise UsageError if the configuration names a run that exists."""
    run_dir = run_dir_of(config)
    if config.tracking.run_name is not None and run_dir.exists():
        raise UsageError(
            f"{run_dir} exists; resume it with `advise-ray train --resume {run_dir}`, or choose another "
            "tracking.run_name"
        )


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep other commands from training in this directory inside the `with` block.

    Raises:
        UsageError: another command trains in this directory.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(run_dir / ".lock"))
        except BlockingIOError:
            raise UsageError(f"another command trains in {run_dir}; wait until it ends") from None
        except OSError as error:
            log.debug("cannot lock %s: %s", run_dir, error)
        yield


def write_config(config: Config, run_dir: Path) -> None:
    """Write the configuration, and an empty list of rejects if there is none."""
    write_whole(run_dir / "config.yaml", to_yaml(config))
    if not patiently(lambda: exists(run_dir / "rejects.parquet")):
        write_rejects([], run_dir / "rejects.parquet")


def read_config(run_dir: Path, overrides: Sequence[str] = (), *, file: Path | None = None) -> Config:
    """Read the configuration of a run.

    If the directory was moved out of its storage, `storage.path` becomes its new parent. Other paths that do not exist
    any more are replaced if a file or folder exists at the same place relative to the run directory.

    Args:
        run_dir: absolute path of the run directory.
        file: the file to read, for example that of a checkpoint. None: `config.yaml` of the run directory.
    """
    file = file or run_dir / "config.yaml"
    moved = _moved_paths(load(file), run_dir)
    return load(file, [*overrides_of(moved), *overrides])


def refuse_no_run(run_dir: Path) -> None:
    """Raise UsageError if this is not the directory of a run that can be resumed."""
    if not (run_dir / "config.yaml").is_file():
        raise UsageError(f"--resume: {run_dir} is not a run directory (it has no config.yaml)")
    if load(run_dir / "config.yaml").search:
        raise UsageError(f"--resume: {run_dir} is a sweep; use `advise-ray tune --resume {run_dir}`")


def _moved_paths(config: Config, run_dir: Path) -> dict[str, str | list[str]]:
    old = Path(config.storage.path)
    if run_dir.resolve().is_relative_to(old.resolve()):
        return {}

    def follow(path: str) -> str:
        if not Path(path).is_absolute() or Path(path).exists():
            return path
        there = os.path.normpath(run_dir.parent / os.path.relpath(path, old))
        if not Path(there).exists():
            return path
        _tell_moved(path, there)
        return there

    moved: dict[str, str | list[str]] = {}
    values = flatten(config)
    for key in PLACES:
        value = values.get(key) if key != "storage.path" else None
        if isinstance(value, str | list):
            moved[key] = follow(value) if isinstance(value, str) else [follow(each) for each in value]
    store = old / "mlflow.db"  # it has the run, unless it was moved too
    if config.tracking.uri is None and store.is_file() and not (run_dir.parent / "mlflow.db").is_file():
        moved["tracking.uri"] = f"sqlite:///{store}"
    return moved | {"storage.path": str(run_dir.parent)}


@functools.cache  # once, although several parts of a command read the configuration
def _tell_moved(path: str, there: str) -> None:
    log.warning("note: %s was moved with the run: using %s", path, there)


def resumed_config(run_dir: Path, overrides: Sequence[str], *, finished_epochs: int) -> Config:
    """The configuration with which a run resumes.

    Args:
        run_dir: absolute path of the run directory.
        overrides: `key=value` changes of the keys in CHANGEABLE. `train.epochs` may be raised if the run is finished,
            or if the learning rates of its finished steps do not depend on `train.epochs`.
        finished_epochs: number of epochs with which the run has finished; 0 if it has not.

    Raises:
        ConfigError: every change that a resumed run cannot take.
    """
    before = read_config(run_dir)
    config = load(None, [*overrides_of(flatten(before)), *overrides])
    is_finished = finished_epochs >= before.train.epochs
    problems = list(_refusals(before, config, run_dir, is_finished=is_finished))
    if problems:
        raise ConfigError(problems)
    if config.train.epochs > before.train.epochs and _rates_depend_on_epochs(before):
        log.warning(
            "note: train.epochs: the run has finished %d epochs with the learning rates of a run of that length. It "
            "now follows those of %d epochs, so the rate jumps; a run of %d epochs from the start would differ",
            *(before.train.epochs, config.train.epochs, config.train.epochs),
        )
    return config


def _rates_depend_on_epochs(config: Config) -> bool:
    """Whether a run with more epochs would have had other learning rates so far: by the cosine, or a cut warm-up."""
    return config.optim.schedule == "cosine" or config.optim.warmup_epochs > config.train.epochs


def _refusals(before: Config, config: Config, run_dir: Path, *, is_finished: bool) -> Iterator[str]:
    old, new = flatten(before), flatten(config)
    for key in (key for key in new if new[key] != old.get(key) and key not in CHANGEABLE):
        yield f"{key}: a resumed run keeps its value, {old.get(key)}; for another value start a new run"
    if config.storage.path not in (before.storage.path, str(run_dir.parent)):
        yield f"storage.path: the run is in {run_dir.parent}; move the run's directory instead"
    epochs, had = config.train.epochs, before.train.epochs
    if epochs < had:
        yield f"train.epochs: the run has {had}, which can be raised, but not lowered; stop the run instead"
    if epochs > had and _rates_depend_on_epochs(before) and not is_finished:
        yield (
            "train.epochs: the learning rates of the steps so far depend on it (optim.schedule, optim.warmup_epochs); "
            f"finish the run's {had} epochs first, or start a new run"
        )

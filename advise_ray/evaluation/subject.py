"""The model to evaluate: from a checkpoint, the image model without a TMM, or a recipe's untrained model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from advise_ray.config import Config, load, recipes
from advise_ray.errors import UsageError
from advise_ray.model.advise import AdViSe, build_advise
from advise_ray.model.ifm import IFM
from advise_ray.training import checkpoint
from advise_ray.training.run_dir import read_config


@dataclass(frozen=True)
class Subject:
    """The model to evaluate.

    Attributes:
        path: checkpoint of the model; None for a recipe, whose TMM keeps its random initialisation.
        run_dir: directory that gets the results.
        is_ifm_alone: `model.tmm.arch=none` has removed the TMM.
        classes: class names of the head; empty if they are unknown.
    """

    config: Config
    model: AdViSe
    num_classes: int
    path: Path | None
    run_dir: Path
    is_ifm_alone: bool
    classes: list[str]


def find_subject(target: Path | str, overrides: list[str], ifm: IFM | None = None) -> Subject:
    """Load the model of a run (its best checkpoint), a checkpoint, or an untrained recipe.

    Args:
        ifm: see `build_advise`; used for a run or a checkpoint.

    Raises:
        UsageError, ConfigError: `target` does not exist, or the checkpoint does not fit the configuration with
            `overrides`.
    """
    folder = Path(os.path.expanduser(target))  # noqa: PTH111 (Path's own may raise)
    if not folder.is_dir():
        return _untrained(str(target), overrides)
    path = checkpoint.find(folder.absolute(), "CHECKPOINT_OR_RUN")
    run_dir = path.parents[1] if path.parent.name == "checkpoints" else path
    file = path / "config.yaml"
    theirs, config = load(file), read_config(run_dir, overrides, file=file)
    is_ifm_alone = config.model.tmm.arch == "none" != theirs.model.tmm.arch
    num_classes = checkpoint.num_classes(path)
    model = build_advise(config, num_classes, ifm)
    if is_ifm_alone:
        return Subject(config, model, num_classes, None, run_dir, True, [])
    checkpoint.check_features(path, config, model.ifm.hash_weights(), str(path))
    state = checkpoint.load(path, model.temporal)
    return Subject(config, model, num_classes, path, run_dir, False, state.classes)


def _untrained(target: str, overrides: list[str]) -> Subject:
    try:
        recipe = recipes.find(target)
    except UsageError:
        raise UsageError(
            f"{target} is not a run, a checkpoint, a recipe file or the name of a packaged recipe"
        ) from None
    config = load(recipe, ["model.init_from=null", *overrides])
    name = config.tracking.run_name or f"untrained-{datetime.now():%Y%m%d-%H%M%S}"
    run_dir = Path(config.storage.path) / name
    if (run_dir / "checkpoints").exists():
        raise UsageError(f"{run_dir} is a trained run; evaluate this run, or choose another tracking.run_name")
    num_classes = len(config.data.clip.rates)  # only the PRP protocol uses this untrained head
    model = build_advise(config, num_classes)
    return Subject(config, model, num_classes, None, run_dir, config.model.tmm.arch == "none", [])


def refuse_unfit(subject: Subject, protocol: str) -> None:
    """Raise UsageError if the model was not trained for the protocol's task."""
    if protocol == "multiview" and (subject.config.task != "action" or subject.path is None):
        raise UsageError(
            "--protocol multiview needs a model that was trained on actions (task: action); fine-tune it first, or use "
            "linear, knn or retrieval"
        )
    if protocol == "pretext" and (subject.config.task != "prp" or subject.is_ifm_alone):
        raise UsageError("--protocol pretext needs a model that was trained on playback rates (task: prp)")

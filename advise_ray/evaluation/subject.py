"""What is evaluated: a checkpoint's model, an image model alone, or a recipe's before training."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from advise_ray.config import Config, load, recipes
from advise_ray.errors import UsageError
from advise_ray.model.advise import AdViSe, build_advise
from advise_ray.model.ifm import IFM
from advise_ray.training import checkpoint


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        path: its checkpoint; None for a recipe, whose TMM stays as it was drawn.
        run_dir: what it leaves goes under this.
        is_ifm_alone: the checkpoint's TMM was left out by `model.tmm.arch=none`.
        classes: what its head tells apart; empty where nobody has said.
    """

    config: Config
    model: AdViSe
    num_classes: int
    path: Path | None
    run_dir: Path
    is_ifm_alone: bool
    classes: list[str]


def find_subject(target: Path | str, overrides: list[str], ifm: IFM | None = None) -> Subject:
    """A run (its best checkpoint), a checkpoint, or a recipe as it is before training.

    Args:
        ifm: see `build_advise`; of a run or a checkpoint.

    Raises:
        UsageError, ConfigError: there is nothing of that name, or the checkpoint is of another model than the
            configuration with its `overrides`.
    """
    folder = Path(target).expanduser()
    if not folder.is_dir():
        return _untrained(str(target), overrides)
    path = checkpoint.find(folder.absolute(), "CHECKPOINT_OR_RUN")
    theirs, config = load(path / "config.yaml"), load(path / "config.yaml", overrides)
    is_ifm_alone = config.model.tmm.arch == "none" != theirs.model.tmm.arch
    run_dir = path.parents[1] if path.parent.name == "checkpoints" else path
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
        raise UsageError(f"{target}: neither a run, nor a checkpoint, nor a recipe (file or shipped name)") from None
    config = load(recipe, ["model.init_from=null", *overrides])
    name = config.tracking.run_name or f"untrained-{datetime.now():%Y%m%d-%H%M%S}"
    run_dir = Path(config.storage.path) / name
    if (run_dir / "checkpoints").exists():
        raise UsageError(f"{run_dir} is a trained run; evaluate that, or choose another tracking.run_name")
    num_classes = len(config.data.clip.rates)  # of a head that nothing is learnt with, and only PRP asks
    model = build_advise(config, num_classes)
    return Subject(config, model, num_classes, None, run_dir, config.model.tmm.arch == "none", [])


def refuse_unfit(subject: Subject, protocol: str) -> None:
    """Raise UsageError where the model has not learnt what the protocol asks for."""
    if protocol == "multiview" and (subject.config.task != "action" or subject.path is None):
        raise UsageError(
            "--protocol multiview needs a model that has learnt actions (task: action); fine-tune first, or use "
            "linear, knn or retrieval"
        )
    if protocol == "pretext" and (subject.config.task != "prp" or subject.is_ifm_alone):
        raise UsageError("--protocol pretext needs a model that has learnt playback rates (task: prp)")

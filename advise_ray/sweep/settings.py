"""The settings of a sweep's trials and their configurations. All are checked before any trial starts."""

from __future__ import annotations

from typing import Any

from advise_ray.config import Config, Space, fields, flatten, load, overrides_of, recipes
from advise_ray.config.keys import unknown_key
from advise_ray.errors import ConfigError, UsageError
from advise_ray.sweep.space import Settings, countable, draw, grid, problems_of_dependence

FINETUNE = "finetune."
NOT_SEARCHED = ("search", "tune.", "tracking.", "storage.", "task", "data.features")
CHECKED = 200
"""Number of random settings to check if a space cannot be enumerated."""
FINETUNED = ("finetune", "delta")
SHARED = (
    *("data.manifest", "data.features", "cache.", "augment.resize", "augment.crop_size"),
    *("model.ifm.", "model.sfu.", "model.tmm.", "seed"),
)
"""Prefixes of keys that a trial's fine-tuning takes from its pretraining: data, features, model and seed."""


def settings_of(config: Config) -> list[Settings]:
    """The settings of all trials of a grid or random search, in order. Empty for TPE, which proposes them one by one.

    Raises:
        ConfigError: every problem of the search space and of its configurations.
    """
    _refuse_space(config)
    if config.tune.searcher == "grid":
        every = list(grid(config.search))
        _refuse(config, every)
        return every
    tpe = config.tune.searcher == "tpe"
    count = max(config.tune.num_trials, CHECKED if tpe else 0)
    drawn = [draw(config.search, config.seed, number) for number in range(count)]
    _refuse(config, drawn)
    return [] if tpe else drawn


def resolve(config: Config) -> Config:
    """Convert the searched values to the types of the schema.

    Paths become absolute, because trials run in other directories. Values that the schema refuses do not change;
    `settings_of` reports them.

    Raises:
        ConfigError: a key does not exist.
    """
    _refuse_space(config)

    def value_of(key: str, value: Any) -> Any:
        try:
            if key.startswith(FINETUNE):
                return flatten(finetuning(config, {key: value}, "model.init_from=null"))[key.removeprefix(FINETUNE)]
            return flatten(pretraining(config, {key: value}))[key]
        except ConfigError:
            return value

    def space_of(key: str, space: Space) -> Space:
        if space.cases is not None:
            return space.model_copy(update={"cases": {case: space_of(key, of) for case, of in space.cases.items()}})
        listed = {kind: values for kind in ("choice", "grid") if (values := getattr(space, kind)) is not None}
        return space.model_copy(
            update={kind: tuple(value_of(key, value) for value in values) for kind, values in listed.items()}
        )

    return config.model_copy(update={"search": {key: space_of(key, space) for key, space in config.search.items()}})


def pretraining(config: Config, settings: Settings, *more: str) -> Config:
    """The configuration of a trial's pretraining.

    Raises:
        ConfigError: the settings contradict each other.
    """
    flat = {key: value for key, value in flatten(config).items() if not key.startswith(("search", "tune."))}
    own = {key: value for key, value in settings.items() if not key.startswith(FINETUNE)}
    return load(None, [*overrides_of(flat), *overrides_of(own), *more])


def finetuning(config: Config, settings: Settings, *more: str) -> Config:
    """The configuration of a trial's fine-tuning: the recipe with the data, the model and the seed of the trial.

    Raises:
        ConfigError: the settings contradict each other.
    """
    trial = flatten(pretraining(config, settings))
    taken = {key: value for key, value in trial.items() if key.startswith(SHARED)}
    own = {key.removeprefix(FINETUNE): value for key, value in settings.items() if key.startswith(FINETUNE)}
    return load(recipes.find(config.tune.finetune), [*overrides_of(taken), *overrides_of(own), *more])


def as_text(settings: Settings) -> str:
    """Readable settings: the last part of each key, and its value."""
    return " ".join(f"{key.rsplit('.', 1)[-1]}={_short(value)}" for key, value in settings.items())


def _refuse_space(config: Config) -> None:
    if not config.search:
        raise ConfigError(["search: required, for example search: {model.tmm.num_blocks: {grid: [1, 2, 4]}}"])
    problems = []
    known = {name for name, _ in fields()}
    for key, space in config.search.items():
        name = key.removeprefix(FINETUNE)
        if name not in known:
            problems.append(f"search.{key}: {unknown_key(name).removeprefix(f'{name}: ')}")
        elif name.startswith(NOT_SEARCHED):
            problems.append(f"search.{key}: this key must be the same for all trials; it cannot be searched")
        elif name != key and name.startswith(SHARED):
            problems.append(f"search.{key}: the fine-tuning uses the value of the pretraining; search {name} instead")
        if name != key and config.tune.objective not in FINETUNED:
            problems.append(f"search.{key}: tune.objective={config.tune.objective} does not fine-tune")
        problems += [f"search.{key}: {problem}" for problem in problems_of_dependence(key, config.search)]
        if config.tune.searcher == "grid" and not countable(space):
            problems.append(
                f"search.{key}: this is not a grid; set tune.searcher to random or tpe, and tune.num_trials"
            )
    if config.tune.objective in FINETUNED:
        problems += _problems_of_finetune(config.tune.finetune)
    if problems:
        raise ConfigError(problems)


def _problems_of_finetune(recipe: str) -> list[str]:
    try:
        task = load(recipes.find(recipe), ["model.init_from=null"]).task
    except ConfigError as error:
        return [f"tune.finetune: {line}" for line in error.problems]
    except UsageError as error:
        return [f"tune.finetune: {str(error).removeprefix('--config: ')}"]
    return (
        []
        if task == "action"
        else [f"tune.finetune: {recipe} has task {task}; a fine-tuning recipe must have task action"]
    )


def _refuse(config: Config, every: list[Settings]) -> None:
    """Load the configuration of all settings. A problem that several settings share is reported once."""
    problems: dict[str, Settings] = {}
    for settings in every:
        for make in (pretraining, finetuning) if config.tune.objective in FINETUNED else (pretraining,):
            try:
                make(config, settings, *(["model.init_from=null"] if make is finetuning else []))
            except ConfigError as error:
                for line in str(error).splitlines():
                    problems.setdefault(line, settings)
    if problems:
        raise ConfigError([f"search: {line} (with {as_text(settings)})" for line, settings in problems.items()])


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).rsplit("/", 1)[-1]

"""The settings of trials: counted out, drawn by lot, or asked of Optuna, and each checked before any trial starts."""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from advise_ray import recipes
from advise_ray.config import Config, Space, fields, flatten, load
from advise_ray.config.search import text_of
from advise_ray.errors import ConfigError, UsageError
from advise_ray.video.sampling import keyed_rng

if TYPE_CHECKING:
    from optuna import Trial

Settings = dict[str, Any]
"""Key → value, of one trial."""
Pick = Callable[[str, Space], Any]
"""From a space; its name is the key, and where that depends on others, on what."""
FINETUNE = "finetune."
NOT_SEARCHED = ("search", "tune.", "tracking.", "storage.", "task", "data.features")
MOST_FEATURES = 64
"""Caches that a sweep makes."""
CHECKED = 200
"""Settings that are drawn and checked of a space that cannot be counted out."""
FINETUNED = ("finetune", "delta")
SHARED = (
    *("data.manifest", "data.features", "cache.", "augment.resize", "augment.crop_size"),
    *("model.ifm.", "model.sfu.", "model.tmm.", "seed"),
)
"""What the fine-tuning of a trial has of its pretraining: the features and the module that is taken over."""


def settings_of(config: Config) -> list[Settings]:
    """The settings of all trials of a grid or a random search, in their order; of TPE, whose come one by one, none.

    Raises:
        ConfigError: every problem with the space, and with the configurations that it makes.
    """
    _refuse_space(config)
    if config.tune.searcher == "grid":
        every = list(_grid(config.search))
        _refuse(config, every)
        return every
    drawn = [_draw(config, number) for number in range(config.tune.num_trials)]
    more = [_draw(config, number) for number in range(len(drawn), CHECKED)] if config.tune.searcher == "tpe" else []
    _refuse(config, [*drawn, *more])
    return drawn if config.tune.searcher == "random" else []


def resolve(config: Config) -> Config:
    """The same with searched values as the schema has them: numbers, and paths that are absolute, since trials run in
    other directories. What the schema refuses stays as it is; `settings_of` tells of it.

    Raises:
        ConfigError: a key that does not exist.
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


def possible(config: Config, keys: tuple[str, ...]) -> list[Settings]:
    """All settings of the searched keys that begin with one of `keys`.

    Raises:
        ConfigError: they cannot be counted, or are too many to make features for.
    """
    wanted: dict[str, Space] = {}
    for key in config.search:
        if key.startswith(keys):
            wanted |= {each: config.search[each] for each in _chain(key, config.search)}
    endless = [key for key, space in wanted.items() if not _countable(space)]
    if endless:
        raise ConfigError(
            [f"search.{key}: features depend on it, and are made beforehand; use choice" for key in endless]
        )
    every = list(itertools.islice(_grid(wanted), MOST_FEATURES + 1))
    if len(every) > MOST_FEATURES:
        names = ", ".join(wanted)
        raise ConfigError([f"search: more than {MOST_FEATURES} settings of {names}, each with its own features"])
    return every


def settle(search: Mapping[str, Space], pick: Pick) -> Settings:
    """One setting: `pick` chooses from each space that holds, after those that it depends on."""
    settings: Settings = {}

    def visit(key: str) -> None:
        space: Space | None = search[key]
        name = key
        while space is not None and space.given is not None:
            if space.given not in settings:
                visit(space.given)
            name = f"{name} given {settings.get(space.given)}"
            space = space.case(settings.get(space.given))
        if space is not None and key not in settings:
            settings[key] = pick(name, space)

    for key in search:
        visit(key)
    return {key: settings[key] for key in search if key in settings}


def ask(search: Mapping[str, Space], trial: Trial) -> Settings:
    """One setting as Optuna suggests it; values that it has no type for go as JSON."""

    def pick(name: str, space: Space) -> Any:
        if space.values is not None and space.randint is None:
            return json.loads(trial.suggest_categorical(name, [json.dumps(value) for value in space.values]))
        if space.randint is not None:
            return trial.suggest_int(name, space.randint[0], space.randint[1] - 1)
        if space.quniform is not None:
            low, high, step = space.quniform
            return trial.suggest_float(name, low, high, step=step)
        low, high = space.loguniform or space.uniform or (0.0, 0.0)
        return trial.suggest_float(name, low, high, log=space.loguniform is not None)

    return settle(search, pick)


def as_asked(search: Mapping[str, Space], settings: Settings) -> dict[str, Any]:
    """The parameters by which `ask` would have got these settings."""
    params: dict[str, Any] = {}

    def pick(name: str, space: Space) -> Any:
        value = settings[name.partition(" given ")[0]]
        params[name] = value if space.values is None or space.randint is not None else json.dumps(value)
        return value

    settle(search, pick)
    return params


def pretraining(config: Config, settings: Settings, *more: str) -> Config:
    """The configuration that a trial trains by.

    Raises:
        ConfigError: the settings do not fit together.
    """
    flat = {key: value for key, value in flatten(config).items() if not key.startswith(("search", "tune."))}
    base = [f"{key}={json.dumps(value)}" for key, value in flat.items()]
    own = [f"{key}={json.dumps(value)}" for key, value in settings.items() if not key.startswith(FINETUNE)]
    return load(None, [*base, *own, *more])


def finetuning(config: Config, settings: Settings, *more: str) -> Config:
    """The configuration of its fine-tuning: the recipe's, with the data, the model and the seed of the trial.

    Raises:
        ConfigError: as above.
    """
    trial = flatten(pretraining(config, settings))
    taken = [f"{key}={json.dumps(value)}" for key, value in trial.items() if key.startswith(SHARED)]
    own = [
        f"{key.removeprefix(FINETUNE)}={json.dumps(value)}"
        for key, value in settings.items()
        if key.startswith(FINETUNE)
    ]
    return load(recipes.find(config.tune.finetune), [*taken, *own, *more])


def _grid(search: Mapping[str, Space]) -> Iterator[Settings]:
    """Every combination, the first key the slowest."""
    paths: list[list[int]] = [[]]
    while paths:
        path = paths.pop()
        settings, counts = _follow(search, path)
        if len(counts) == len(path):
            yield settings
        else:
            paths += [[*path, index] for index in reversed(range(counts[len(path)]))]


def _follow(search: Mapping[str, Space], path: list[int]) -> tuple[Settings, list[int]]:
    """The setting at a path of choices, the first of each beyond its end; and how many values each choice had."""
    counts: list[int] = []

    def pick(_key: str, space: Space) -> Any:
        values = space.values or ()
        counts.append(len(values))
        return values[path[len(counts) - 1] if len(counts) <= len(path) else 0]

    return settle(search, pick), counts


def _draw(config: Config, number: int) -> Settings:
    rng = keyed_rng(config.seed, "search", number)

    def pick(_key: str, space: Space) -> Any:
        if space.values is not None:
            return space.values[rng.integers(len(space.values))]
        if space.quniform is not None:
            low, high, step = space.quniform
            return float(low + step * rng.integers(int((high - low) / step + 1e-9) + 1))
        if space.loguniform is not None:
            return float(np.exp(rng.uniform(*np.log(space.loguniform))))
        return float(rng.uniform(*(space.uniform or (0.0, 0.0))))

    return settle(config.search, pick)


def _countable(space: Space) -> bool:
    if space.cases is not None:
        return all(_countable(case) for case in space.cases.values())
    return space.values is not None


def _refuse_space(config: Config) -> None:
    if not config.search:
        raise ConfigError(["search: required; such as search: {model.tmm.num_blocks: {grid: [1, 2, 4]}}"])
    problems = []
    known = {name for name, _ in fields()}
    for key, space in config.search.items():
        name = key.removeprefix(FINETUNE)
        if name not in known:
            problems.append(f"search.{key}: {_unknown(name)}")
        elif name.startswith(NOT_SEARCHED):
            problems.append(f"search.{key}: not a key that trials can differ in")
        elif name != key and name.startswith(SHARED):
            problems.append(f"search.{key}: the fine-tuning has the pretraining's; search {name}")
        if name != key and config.tune.objective not in FINETUNED:
            problems.append(f"search.{key}: nothing is fine-tuned with tune.objective={config.tune.objective}")
        problems += [f"search.{key}: {problem}" for problem in _dependence(key, config.search)]
        if config.tune.searcher == "grid" and not _countable(space):
            problems.append(f"search.{key}: has no grid; set tune.searcher to random or tpe, and tune.num_trials")
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
    return [] if task == "action" else [f"tune.finetune: {recipe} has task {task}; a fine-tuning has task action"]


def _chain(key: str, search: Mapping[str, Space]) -> list[str]:
    """A key and those that it depends on, one after the other, as far as they are searched."""
    chain = [key]
    while (given := search[chain[-1]].given) in search and given not in chain:
        chain.append(str(given))
    return chain


def _dependence(key: str, search: Mapping[str, Space]) -> list[str]:
    space, chain = search[key], _chain(key, search)
    if space.given is not None and space.given not in search:
        return [f"given {space.given}, which is not searched"]
    if search[chain[-1]].given in chain:
        return [f"given {space.given}, which depends on it in turn"]
    values = search[space.given].values if space.given is not None else None
    never = [case for case in space.cases or () if values is not None and all(case != text_of(each) for each in values)]
    return [f"cases has {case!r}, which {space.given} never is" for case in never]


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, [name for name, _ in fields()], n=1, cutoff=0.5)
    return f"unknown key{f'; did you mean {near[0]}?' if near else ''}"


def _refuse(config: Config, every: list[Settings]) -> None:
    """Load the configuration of each; a problem that many share is told once."""
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


def as_text(settings: Settings) -> str:
    """For people: the last part of each key, and its value."""
    return " ".join(f"{key.rsplit('.', 1)[-1]}={_short(value)}" for key, value in settings.items())


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).rsplit("/", 1)[-1]

"""Spaces of settings as arithmetic: counted out, drawn by lot, or asked of Optuna."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from advise_ray.config import Space
from advise_ray.config.search import text_of
from advise_ray.errors import ConfigError
from advise_ray.video.sampling import keyed_rng

if TYPE_CHECKING:
    from optuna import Trial

Settings = dict[str, Any]
"""Key → value, of one trial."""
Pick = Callable[[str, Space], Any]
"""From a space; its name is the key, and where that depends on others, on what."""
MOST_FEATURES = 64
"""Caches that a sweep makes."""


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


def grid(search: Mapping[str, Space]) -> Iterator[Settings]:
    """Every combination, the first key the slowest."""
    paths: list[list[int]] = [[]]
    while paths:
        path = paths.pop()
        settings, counts = _follow(search, path)
        if len(counts) == len(path):
            yield settings
        else:
            paths += [[*path, index] for index in reversed(range(counts[len(path)]))]


def draw(search: Mapping[str, Space], seed: int, number: int) -> Settings:
    """The setting of that number in the order of lots of this seed."""
    rng = keyed_rng(seed, "search", number)

    def pick(_key: str, space: Space) -> Any:
        if space.values is not None:
            return space.values[rng.integers(len(space.values))]
        if space.quniform is not None:
            low, high, step = space.quniform
            return float(low + step * rng.integers(int((high - low) / step + 1e-9) + 1))
        if space.loguniform is not None:
            return float(np.exp(rng.uniform(*np.log(space.loguniform))))
        return float(rng.uniform(*(space.uniform or (0.0, 0.0))))

    return settle(search, pick)


def possible(search: Mapping[str, Space], keys: tuple[str, ...]) -> list[Settings]:
    """All settings of the searched keys that begin with one of `keys`.

    Raises:
        ConfigError: they cannot be counted, or are too many to make features for.
    """
    wanted: dict[str, Space] = {}
    for key in search:
        if key.startswith(keys):
            wanted |= {each: search[each] for each in chain(key, search)}
    endless = [key for key, space in wanted.items() if not countable(space)]
    if endless:
        raise ConfigError(
            [f"search.{key}: features depend on it, and are made beforehand; use choice" for key in endless]
        )
    every = list(itertools.islice(grid(wanted), MOST_FEATURES + 1))
    if len(every) > MOST_FEATURES:
        names = ", ".join(wanted)
        raise ConfigError([f"search: more than {MOST_FEATURES} settings of {names}, each with its own features"])
    return every


def countable(space: Space) -> bool:
    """Whether it is a list of values, whatever it depends on."""
    if space.cases is not None:
        return all(countable(case) for case in space.cases.values())
    return space.values is not None


def chain(key: str, search: Mapping[str, Space]) -> list[str]:
    """A key and those that it depends on, one after the other, as far as they are searched."""
    keys = [key]
    while (given := search[keys[-1]].given) in search and given not in keys:
        keys.append(str(given))
    return keys


def problems_of_dependence(key: str, search: Mapping[str, Space]) -> list[str]:
    """A key that others depend on has to be there, and to have the values that are named."""
    space, keys = search[key], chain(key, search)
    if space.given is not None and space.given not in search:
        return [f"given {space.given}, which is not searched"]
    if search[keys[-1]].given in keys:
        return [f"given {space.given}, which depends on it in turn"]
    values = search[space.given].values if space.given is not None else None
    never = [case for case in space.cases or () if values is not None and all(case != text_of(each) for each in values)]
    return [f"cases has {case!r}, which {space.given} never is" for case in never]


def _follow(search: Mapping[str, Space], path: list[int]) -> tuple[Settings, list[int]]:
    """The setting at a path of choices, the first of each beyond its end; and how many values each choice had."""
    counts: list[int] = []

    def pick(_key: str, space: Space) -> Any:
        values = space.values or ()
        counts.append(len(values))
        return values[path[len(counts) - 1] if len(counts) <= len(path) else 0]

    return settle(search, pick), counts

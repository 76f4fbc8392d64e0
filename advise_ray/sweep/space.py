"""Search spaces: enumerate a grid, draw random settings, or ask Optuna for settings."""

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
"""Key → value of one trial."""
Pick = Callable[[str, Space], Any]
"""Chooses a value from a space. The name is the key; for a space with `given`, it includes the value of that key."""
MOST_FEATURES = 64
"""Maximum number of feature caches that a sweep makes."""


def settle(search: Mapping[str, Space], pick: Pick) -> Settings:
    """Build the settings of one trial. `pick` chooses from each space that applies, dependencies first."""
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
    """The settings of one trial as Optuna suggests them. Values without an Optuna type are passed as JSON."""

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
    """The Optuna parameters for which `ask` returns these settings."""
    params: dict[str, Any] = {}

    def pick(name: str, space: Space) -> Any:
        value = settings[name.partition(" given ")[0]]
        params[name] = value if space.values is None or space.randint is not None else json.dumps(value)
        return value

    settle(search, pick)
    return params


def grid(search: Mapping[str, Space]) -> Iterator[Settings]:
    """Yield every combination. The first key changes slowest."""
    paths: list[list[int]] = [[]]
    while paths:
        path = paths.pop()
        settings, counts = _follow(search, path)
        if len(counts) == len(path):
            yield settings
        else:
            paths += [[*path, index] for index in reversed(range(counts[len(path)]))]


def draw(search: Mapping[str, Space], seed: int, number: int) -> Settings:
    """The random settings of the trial `number` for this seed."""
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
    """All combinations of the searched keys that begin with one of `keys`.

    Raises:
        ConfigError: a key's values cannot be enumerated, or there are too many combinations to make features for.
    """
    wanted: dict[str, Space] = {}
    for key in search:
        if key.startswith(keys):
            wanted |= {each: search[each] for each in chain(key, search)}
    endless = [key for key, space in wanted.items() if not countable(space)]
    if endless:
        raise ConfigError(
            [f"search.{key}: features depend on it and are made in advance; use choice" for key in endless]
        )
    every = list(itertools.islice(grid(wanted), MOST_FEATURES + 1))
    if len(every) > MOST_FEATURES:
        names = ", ".join(wanted)
        raise ConfigError([f"search: more than {MOST_FEATURES} settings of {names}, each with its own features"])
    return every


def countable(space: Space) -> bool:
    """Whether the space is a list of values in all of its cases."""
    if space.cases is not None:
        return all(countable(case) for case in space.cases.values())
    return space.values is not None


def chain(key: str, search: Mapping[str, Space]) -> list[str]:
    """A key and the searched keys that it depends on, directly or indirectly, in order."""
    keys = [key]
    while (given := search[keys[-1]].given) in search and given not in keys:
        keys.append(str(given))
    return keys


def problems_of_dependence(key: str, search: Mapping[str, Space]) -> list[str]:
    """Problems of `given` and `cases`: a missing key, a cycle, or a case that never occurs."""
    space, keys = search[key], chain(key, search)
    if space.given is not None and space.given not in search:
        return [f"given names {space.given}, which is not a searched key"]
    if search[keys[-1]].given in keys:
        return [f"given names {space.given}, which itself depends on this key"]
    values = search[space.given].values if space.given is not None else None
    never = [case for case in space.cases or () if values is not None and all(case != text_of(each) for each in values)]
    return [f"cases names {case!r}, which {space.given} never has as its value" for case in never]


def _follow(search: Mapping[str, Space], path: list[int]) -> tuple[Settings, list[int]]:
    """The settings for a path of choice indices (0 after its end), and the number of values of each choice."""
    counts: list[int] = []

    def pick(_key: str, space: Space) -> Any:
        values = space.values or ()
        counts.append(len(values))
        return values[path[len(counts) - 1] if len(counts) <= len(path) else 0]

    return settle(search, pick), counts

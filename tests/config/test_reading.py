"""What people write into recipes and behind `--set`."""

from __future__ import annotations

from pathlib import Path

import pytest

from advise_ray.config import flatten, load
from advise_ray.errors import ConfigError


def read(tmp_path: Path, text: str, *overrides: str) -> dict[str, object]:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return flatten(load(path, overrides))


def refused(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, *overrides)
    return str(caught.value).replace(f"{tmp_path}/recipe.yaml: ", "")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("optim.lr: 0.5\noptim: {warmup_epochs: 1}\n", "optim.lr", 0.5),
        ("optim.lr: 0.5\noptim:\n", "optim.lr", 0.5),
        ("search.seed: {grid: [0]}\nsearch: {optim.lr: {grid: [1]}}\n", "search.seed.grid", [0]),
        (
            "search:\n  model.sfu.temporal_centering: {grid: [true, false]}\n",
            "search.model.sfu.temporal_centering.grid",
            [True, False],
        ),
        ("data.clip: {num_frames: 4}\n", "data.clip.num_frames", 4),
        ("data:\n  clip.rates: [1, 4]\n", "data.clip.rates", [1.0, 4.0]),
        ("storage:\n  path: /runs # second disk\n", "storage.path", "/runs"),
        ("storage:\n  path: '/runs #2'\n", "storage.path", "/runs #2"),
        ("optim:\n  <<: {lr: 0.5}\n", "optim.lr", 0.5),
        ("search:\n  train.epochs: {grid: [010, 1e3]}\n", "search.train.epochs.grid", ["010", "1e3"]),
        ("search:\n  model.ifm.weights: {grid: [none, on]}\n", "search.model.ifm.weights.grid", ["none", "on"]),
    ],
)
def test_what_a_recipe_may_hold(tmp_path: Path, text: str, key: str, value: object) -> None:
    assert read(tmp_path, text)[key] == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("storage:\n  path: /runs #2\n", "storage.path: YAML ignores '#2'; quote the value, or write a space after #"),
        ("data:\n  manifest:\n    - /a\n    - /b #2\n", "data.manifest: YAML ignores '#2'; quote the value"),
        ("storage:\n  path: !env SCRATCH\n", "not valid YAML: could not determine a constructor for the tag '!env'"),
        ("seed: 1\noptim.lr: 1\nseed: 2\n", "seed: duplicate key, again at line 3; remove one of them"),
        ("optim: {lr: 1}\noptim.lr: 2\n", "optim.lr: duplicate key, again at line 2; remove one of them"),
        ("search:\n  seed: {grid: [1]}\n  seed: {grid: [2]}\n", "search.seed: duplicate key, again at line 3"),
        ("optim: 3\noptim.lr: 1\n", "optim is 3, which has no keys"),
        ("on: 1\n", "on: unknown key; "),
        ("model: []\n", "model: must be a section of keys, such as {key: value}, got []"),
        ("secrets: NAME\n", "secrets: must be a list, such as [a, b], got 'NAME'"),
        ("storage: {path: ''}\n", "storage.path: is empty; give a path, such as ./runs"),
        ("seed: 99999999999999999999\n", "seed: Input should be less than 2147483648, got 99999999999999999999"),
    ],
)
def test_what_a_recipe_may_not_hold(tmp_path: Path, text: str, problem: str) -> None:
    assert refused(tmp_path, text).startswith(problem)


def test_the_parts_of_a_value_with_several_types_are_not_told_as_keys(tmp_path: Path) -> None:
    assert refused(tmp_path, "", "train.num_workers=auto").splitlines() == [
        "train.num_workers: Input should be a valid integer, unable to parse string as an integer, got 'auto'",
        "train.num_workers: must be a list, such as [a, b], got 'auto'",
    ]


def test_spaces_around_the_equals_sign_are_no_part_of_the_key(tmp_path: Path) -> None:
    assert read(tmp_path, "", "optim.lr = 0.5")["optim.lr"] == 0.5


@pytest.mark.parametrize(
    ("uri", "expanded"),
    [
        ("~/mlruns", "{home}/mlruns"),
        ("sqlite:///~/m.db", "sqlite:///{home}/m.db"),
        ("http://host/~me", "http://host/~me"),
    ],
)
def test_home_in_the_tracking_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, expanded: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read(tmp_path, "", f"tracking.uri={uri}")["tracking.uri"] == expanded.format(home=tmp_path)

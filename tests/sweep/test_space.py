from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advise_ray.config import load
from advise_ray.errors import ConfigError
from advise_ray.sweep.settings import as_text, finetuning, pretraining, resolve, settings_of
from advise_ray.sweep.space import as_asked, ask, possible, settle

MANIFEST = ("data.manifest=/clips.parquet",)
BLOCKS = "search.model.tmm.num_blocks={grid: [1, 2, 4]}"


def problems(*overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        settings_of(load(None, [*MANIFEST, *overrides]))
    return str(raised.value)


def test_a_grid_is_every_combination_in_the_order_of_the_recipe() -> None:
    config = load(None, [*MANIFEST, BLOCKS, "search.seed={grid: [0, 1]}"])
    assert [tuple(each.values()) for each in settings_of(config)] == [(1, 0), (1, 1), (2, 0), (2, 1), (4, 0), (4, 1)]
    assert list(settings_of(config)[0]) == ["model.tmm.num_blocks", "seed"]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_a_grid_has_each_combination_once(sizes: list[int]) -> None:
    keys = ["seed", "optim.warmup_epochs", "model.tmm.num_blocks", "model.head.num_layers"][: len(sizes)]
    spaces = [f"search.{key}={{grid: {list(range(1, size + 1))}}}" for key, size in zip(keys, sizes, strict=True)]
    found = settings_of(load(None, [*MANIFEST, *spaces]))
    product = 1
    for size in sizes:
        product *= size
    assert len(found) == len({json.dumps(each) for each in found}) == product


def test_keys_may_be_written_dotted_or_nested(tmp_path: Path) -> None:
    recipe = tmp_path / "sweep.yaml"
    recipe.write_text("search:\n  model.tmm.num_blocks: {grid: [1, 2]}\n  optim: {lr: {choice: [0.1]}}\n")
    assert list(load(recipe).search) == ["model.tmm.num_blocks", "optim.lr"]


def test_a_space_may_depend_on_another_key() -> None:
    config = load(
        None,
        [
            *MANIFEST,
            "search.model.tmm.num_heads={given: model.tmm.arch, cases: {transformer: {grid: [4, 8]}}}",
            "search.model.tmm.arch={grid: [resnet3d, transformer]}",
        ],
    )
    assert settings_of(config) == [
        {"model.tmm.arch": "resnet3d"},
        {"model.tmm.num_heads": 4, "model.tmm.arch": "transformer"},
        {"model.tmm.num_heads": 8, "model.tmm.arch": "transformer"},
    ]


def test_settings_by_lot_lie_in_their_spaces_and_are_the_same_again() -> None:
    config = load(
        None,
        [
            *MANIFEST,
            "tune={searcher: random, num_trials: 40}",
            "search.optim.lr={loguniform: [1.0e-4, 1.0e-1]}",
            "search.optim.label_smoothing={quniform: [0, 0.2, 0.05]}",
            "search.model.tmm.num_blocks={randint: [1, 4]}",
            "search.optim.weight_decay={uniform: [0, 1]}",
            "search.model.sfu.channels={choice: [null, 64]}",
        ],
    )
    drawn = settings_of(config)
    assert drawn == settings_of(config)
    assert len(drawn) == 40
    assert all(1e-4 <= each["optim.lr"] <= 1e-1 for each in drawn)
    assert 8 < sum(each["optim.lr"] < 1e-2 * 10**-0.5 for each in drawn) < 32  # half of it, in orders of magnitude
    assert {each["model.tmm.num_blocks"] for each in drawn} == {1, 2, 3}
    assert {round(each["optim.label_smoothing"] / 0.05) for each in drawn} == {0, 1, 2, 3, 4}
    assert {each["model.sfu.channels"] for each in drawn} == {None, 64}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "search: required"),
        (
            ["search.model.tmm.blocks={grid: [1]}"],
            "search.model.tmm.blocks: unknown key; did you mean model.tmm.num_blocks",
        ),
        (["search.storage.path={grid: [a]}"], "this key must be the same for all trials"),
        (["search.optim.lr={uniform: [0.1, 0.2]}"], "this is not a grid; set tune.searcher to random or tpe"),
        (["search.finetune.optim.lr={grid: [1]}"], "tune.objective=pretext does not fine-tune"),
        (["search.seed={given: optim.lr, cases: {}}"], "given names optim.lr, which is not a searched key"),
        (["search.model.tmm.temporal_kernel={grid: [3, 4]}"], "temporal_kernel must be odd, got 4"),
        ([BLOCKS, "tune={objective: finetune, finetune: nowhere}"], "tune.finetune: no file nowhere"),
        ([BLOCKS, "tune={objective: finetune, finetune: quickstart}"], "a fine-tuning recipe must have task action"),
        (["search.finetune.model.sfu.channels={grid: [1]}", "tune.objective=finetune"], "search model.sfu.channels"),
        ([BLOCKS, "search.seed={given: model.tmm.num_blocks, cases: {3: 1}}"], "cases names '3', which model.tmm.num"),
    ],
)
def test_a_wrong_space_is_told_before_anything_starts(overrides: list[str], said: str) -> None:
    assert said in problems(*overrides)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("{grid: [1], choice: [2]}", "exactly one of"),
        ("{uniform: [2, 1]}", "2 must be below 1"),
        ("{loguniform: [0, 1]}", "must be above 0"),
        ("{grid: []}", "at least 1 item"),
    ],
)
def test_a_space_that_does_not_hold_is_refused_as_it_is_read(space: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(None, [f"search.seed={space}"])


def test_asha_needs_a_metric_of_every_epoch() -> None:
    with pytest.raises(ConfigError, match="set tune"):
        load(None, ["tune={scheduler: asha, objective: finetune}"])


def test_every_problem_of_the_combinations_is_told_once() -> None:
    said = problems("search.model.tmm.temporal_kernel={grid: [2, 4]}", "search.seed={grid: [0, 1]}").splitlines()
    assert len(said) == 2


def test_the_fine_tuning_takes_the_trials_model_and_keeps_its_own_settings() -> None:
    config = load(
        None,
        [*MANIFEST, "tune.objective=finetune", "model.sfu.spatial_size=2", "search.finetune.optim.lr={grid: [0.5]}"],
    )
    trial = {"finetune.optim.lr": 0.5, "seed": 3, "model.tmm.num_blocks": 2}
    assert pretraining(config, trial).optim.lr == config.optim.lr
    tuned = finetuning(config, trial, "model.init_from=null")
    assert (tuned.task, tuned.optim.lr, tuned.seed) == ("action", 0.5, 3)
    assert (tuned.model.sfu.spatial_size, tuned.model.tmm.num_blocks) == (2, 2)
    assert tuned.data.manifest == config.data.manifest


def test_what_can_be_counted_of_a_space_is_known_before_a_search() -> None:
    config = load(None, ["search.optim.lr={uniform: [0.1, 1]}", "search.model.sfu.spatial_size={choice: [1, 7]}"])
    assert possible(config.search, ("model.sfu.",)) == [{"model.sfu.spatial_size": 1}, {"model.sfu.spatial_size": 7}]
    assert possible(config.search, ("model.ifm.",)) == [{}]


def test_searched_values_become_what_the_schema_makes_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(
        None,
        [
            "search.data.manifest={grid: [a.parquet]}",
            "search.optim.lr={given: seed, cases: {1: 1e-3}}",
            "search.seed={grid: [1]}",
        ],
    )
    (settings,) = settings_of(resolve(config))
    assert settings == {"data.manifest": str(tmp_path / "a.parquet"), "optim.lr": 0.001, "seed": 1}


def test_what_was_asked_of_optuna_can_be_asked_for_again() -> None:
    search = load(
        None,
        [
            "search.model.tmm.arch={choice: [resnet3d, transformer]}",
            "search.model.tmm.num_blocks={given: model.tmm.arch, cases: "
            "{resnet3d: {choice: [1, 2]}, transformer: {choice: [2, 4, null]}}}",
            "search.optim.lr={loguniform: [1.0e-4, 1.0e-2]}",
            "search.seed={randint: [0, 4]}",
        ],
    ).search
    study = optuna.create_study()
    for _ in range(20):  # the choices of one case are not those of the other
        trial = study.ask()
        settings = ask(search, trial)
        assert as_asked(search, settings) == trial.params
        study.enqueue_trial(trial.params)
        assert ask(search, study.ask()) == settings


def test_features_are_made_for_what_can_be_counted() -> None:
    endless = load(
        None, ["search.model.sfu.channels={given: optim.lr, cases: {}}", "search.optim.lr={uniform: [0, 1]}"]
    )
    with pytest.raises(ConfigError, match=r"optim\.lr: features depend on it"):
        possible(endless.search, ("model.sfu.",))
    with pytest.raises(ConfigError, match="more than 64 settings"):
        possible(load(None, ["search.model.sfu.channels={randint: [1, 1000]}"]).search, ("model.sfu.",))


def test_settings_for_people_are_short() -> None:
    assert as_text({"optim.lr": 0.012345678, "data.manifest": "/a/b.parquet"}) == "lr=0.01235 manifest=b.parquet"


def test_a_key_is_settled_after_the_one_that_it_depends_on() -> None:
    config = load(None, ["search.seed={given: task, cases: {prp: 7}}", "search.task={grid: [prp]}"])
    assert settle(config.search, lambda _key, space: (space.values or ())[0]) == {"seed": 7, "task": "prp"}

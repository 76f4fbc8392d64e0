from __future__ import annotations

import json
import pickle
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from advise_ray.config import Config, fields, flatten, load, reference, to_yaml, videos_per_step
from advise_ray.errors import ConfigError

words = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1)
"""What JSON and YAML write alike."""

some_settings = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**31 - 1),
        "data.manifest": st.none() | st.just("/a set/a manifest.parquet"),
        "data.train_split": words,
        "data.clip.rates": st.lists(st.floats(1, 64), min_size=2, max_size=5, unique=True).map(sorted),
        "data.num_decode_actors": st.none() | st.integers(1, 64),
        "augment.flip": st.booleans(),
        "model.ifm.weights": st.sampled_from(["none", "yes", "1e-3", "null", "a: b", "~", " x\n", "2026-01-01"]),
        "optim.lr": st.floats(0, 1e30, exclude_min=True),
        "optim.grad_clip": st.none() | st.floats(1e-30, 1e30),
        "tracking.experiment": words,
        "tracking.run_name": st.text(string.ascii_letters + string.digits, min_size=1),
    },
)


def nested(settings: dict[str, Any]) -> Config:
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, leaf = key.split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = value
    return Config.model_validate(tree)


def recipe(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(*overrides: str, recipe: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(recipe, overrides)
    assert str(caught.value).splitlines() == list(caught.value.problems)
    return list(caught.value.problems)


def test_a_recipe_changes_the_defaults_and_set_changes_the_recipe_the_last_one_winning(tmp_path):
    path = recipe(tmp_path, "seed: 1\noptim: {lr: 2.0e-3, weight_decay: 0.5}\ntrain: {epochs: 7}\n")
    config = load(path, ["optim.lr=3e-3", "optim={lr: 0.1, warmup_epochs: 0}", "optim.lr=0.2", "seed=5"])
    assert config == nested({"seed": 5, "optim.lr": 0.2, "optim.warmup_epochs": 0, "train.epochs": 7})
    assert load(path, ["optim.lr=3e-3"]).optim.weight_decay == 0.5


def test_all_problems_are_told_at_once(tmp_path):
    path = recipe(
        tmp_path,
        """
        optim: {lrr: 0.1, weight_decay: -1}
        data: {clip: {num_frames: 1, rates: [1, 4, 2]}}
        train: {epochs: many}
        augment: {crop_size_px: 300}
        """,
    )
    assert problems("sead=3", "model.tmm.temporal_kernel=2", "train.epochs", recipe=path) == [
        "--set train.epochs: expected key=value",
        "data.clip.num_frames: Input should be greater than 1, got 1",
        "augment: crop_size_px (300) must not exceed the resized frame (256 px)",
        "model.tmm: temporal_kernel must be odd, got 2",
        "optim.weight_decay: Input should be greater than or equal to 0, got -1",
        "optim.lrr: unknown key; did you mean optim.lr?",
        "train.epochs: Input should be a valid integer, unable to parse string as an integer, got 'many'",
        "sead: unknown key; did you mean seed?",
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("lr=1", "lr: unknown key; did you mean optim.lr?"),
        ("clip.num_frames=4", "clip: unknown key; `advise-ray config schema --markdown` lists all keys"),
        ("model.ifm.weight=none", "model.ifm.weight: unknown key; did you mean model.ifm.weights?"),
        ("xyzzy=1", "xyzzy: unknown key; `advise-ray config schema --markdown` lists all keys"),
        ("optim.lr=.inf", "optim.lr: Input should be a finite number, got inf"),
        ("optim.warmup_epochs=.nan", "optim.warmup_epochs: Input should be a finite number, got nan"),
        ("data.clip.rates=[4, 2]", "data.clip: rates must be in ascending order, got 4, 2"),
        (
            "data.clip={frame_stride: 1, rates: [0.5, 1]}",
            "data.clip: frame_stride (1) × the slowest rate (0.5) must be at least 1",
        ),
        (
            "train.global_batch_size=33",
            "train.global_batch_size: must be a multiple of 4 (data.clip.clips_per_video 4 × num_workers 1), got 33",
        ),
        (
            "train.num_workers=3",
            "train.global_batch_size: must be a multiple of 12 (data.clip.clips_per_video 4 × num_workers 3), got 32",
        ),
        (
            "model.ifm.name=resnet50",
            "model.ifm.name: String should match pattern '^(timm|open_clip):.+', got 'resnet50'",
        ),
        (
            "tracking.run_name=../elsewhere",
            "tracking.run_name: String should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$', got '../elsewhere'",
        ),
    ],
)
def test_a_problem_names_the_key_the_value_and_what_is_allowed(override, problem):
    assert problems(override) == [problem]


def test_a_key_below_a_value_is_refused():
    assert problems("optim=3", "optim.lr=1")[0] == "--set optim.lr=1: optim is 3, which has no keys"


@pytest.mark.parametrize(
    "uri",
    ["http://me:hunter2@host:5000", "postgresql://me:hunter2@host/db", "postgresql://host/db?user=me&password=hunter2"],
)
def test_a_password_is_refused_and_not_shown(uri):
    assert problems(f"tracking.uri={uri}") == [
        "tracking: uri must not contain a password, because the URI is logged; set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "not valid YAML: while parsing a flow node expected the node content, but found '<stream end>'"),
        (b"\xff\xfe", "not valid YAML: 'utf-8' codec can't decode byte 0xff"),
        ("- seed", "a recipe must be a mapping of keys to values, got list"),
        ("optim.lr = 3", "a recipe must be a mapping of keys to values, got str"),
    ],
)
def test_what_is_no_recipe_is_one_problem_beside_those_of_set(tmp_path, text, problem):
    path = recipe(tmp_path, text)
    first, second = problems("sead=3", recipe=path)
    assert first.startswith(f"{path}: {problem}")
    assert second == "sead: unknown key; did you mean seed?"


def test_a_recipe_that_is_not_there(tmp_path):
    missing = tmp_path / "recipe.yaml"
    assert problems(recipe=missing) == [f"{missing}: cannot read the recipe: No such file or directory"]
    assert problems(recipe=tmp_path) == [f"{tmp_path}: cannot read the recipe: Is a directory"]


def test_an_empty_recipe_is_the_defaults(tmp_path):
    assert load(recipe(tmp_path, "# nothing yet\n")) == load()


def test_a_number_that_yaml_takes_for_a_word_is_a_number(tmp_path):
    assert load(recipe(tmp_path, "optim: {lr: 1e-3}")).optim.lr == 0.001
    assert load(None, ["optim.lr=1e-3"]).optim.lr == 0.001


def test_paths_are_absolute_and_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert load().storage.path == f"{tmp_path}/runs"
    config = load(None, ["storage.path=~/runs", "data.manifest=sets/a.parquet"])
    assert (config.storage.path, config.data.manifest) == ("/home/me/runs", f"{tmp_path}/sets/a.parquet")
    with pytest.raises(ConfigError, match=r"^storage.path: must be a local path .*, not a URL$"):
        load(None, ["storage.path=s3://bucket/runs"])
    assert load(None, ["storage.path=~nobody-here/runs"]).storage.path == f"{tmp_path}/~nobody-here/runs"


@settings(deadline=None, max_examples=30)
@given(some_settings)
def test_to_yaml_is_read_back_to_an_equal_config(tmp_path_factory, values):
    config = nested(values)
    path = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    path.write_text(to_yaml(config))
    assert load(path) == config


@settings(deadline=None, max_examples=30)
@given(some_settings)
def test_each_flat_key_can_be_set_to_its_value(values):
    flat = flatten(nested(values))
    assert list(flat) == [key for key, _ in fields()]
    assert load(None, [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in flat.items()]) == nested(
        values
    )


@pytest.mark.parametrize(("key", "info"), list(fields()), ids=[key for key, _ in fields()])
def test_every_key_can_be_set_to_its_own_default(key, info):
    assert load(None, [f"{key}={json.dumps(info.default)}"]) == load()


def test_the_reference_explains_every_key():
    head, _, *rows = (line for line in reference().splitlines() if line.startswith("|"))
    assert head == "| key | type | default | meaning |"
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    assert [cell[0] for cell in cells] == [f"`{key}`" for key, _ in fields()]
    for key, kind, default, meaning in cells:
        assert meaning.endswith((".", ".)")), key
        assert default != "``", key
        assert not set(kind) & set("[]()'"), key  # types as people say them


def test_the_written_reference_is_the_present_one():
    written = (Path(__file__).parents[2] / "jobs" / "SETTINGS.md").read_text()
    assert written == reference(), "advise-ray config schema --markdown has changed; write it again"


def test_a_config_does_not_change():
    config = load()
    with pytest.raises(ValidationError, match="frozen"):
        config.optim.lr = 1.0
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1


def test_a_step_is_whole_videos():
    assert videos_per_step(load(None, ["train.global_batch_size=24", "data.clip.clips_per_video=3"])) == 8


def test_the_error_reaches_another_process_with_its_problems():
    """Ray pickles what a worker raises."""
    error = pickle.loads(pickle.dumps(ConfigError(["seed: one", "optim.lr: two"])))
    assert error.problems == ("seed: one", "optim.lr: two")
    assert str(error) == "seed: one\noptim.lr: two"
    assert error.exit_code == 2


def test_a_section_with_nothing_under_it_takes_settings(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("optim:\n")
    assert load(tmp_path / "recipe.yaml", ["optim.lr=0.5"]).optim.lr == 0.5
    assert load(tmp_path / "recipe.yaml").optim == load().optim


# As it was typed


@pytest.mark.parametrize("text", ["20240611", "007", "on", "1e3", "2024-06-11", "null1", "0x10", "1_000", "1.50"])
def test_a_name_is_taken_as_it_was_typed(tmp_path: Path, text: str) -> None:
    assert load(None, [f"tracking.run_name={text}"]).tracking.run_name == text
    assert load(recipe(tmp_path, f"tracking: {{run_name: {text}}}")).tracking.run_name == text
    assert load(recipe(tmp_path, f"tracking: {{run_name: '{text}'}}")).tracking.run_name == text


@pytest.mark.parametrize(
    "path", ["/mnt/runs #2", "/mnt/a: b", "/mnt/{x}", "/mnt/[1]", "/mnt/x, y", "/mnt/it's", "/mnt/é"]
)
def test_a_path_is_taken_as_it_was_typed(path: str) -> None:
    config = load(None, [f"storage.path={path}", f"data.manifest={path}"])
    assert (config.storage.path, config.data.manifest) == (path, path)
    quoted = load(None, [f'storage.path="{path}"', f"data.manifest={json.dumps([path, '/b'])}"])
    assert (quoted.storage.path, quoted.data.manifest) == (path, (path, "/b"))


def test_home_is_meant_by_a_tilde_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = ("storage.path", "data.manifest", "data.features", "model.init_from", "model.ifm.weights")
    config = load(None, [*(f"{key}=~/x" for key in keys), "model.ifm.name=open_clip:local-dir:~/clip"])
    assert {flatten(config)[key] for key in keys} == {f"{tmp_path}/x"}
    assert config.model.ifm.name == f"open_clip:local-dir:{tmp_path}/clip"
    assert load(None, ["data.manifest=[~/a, ~/b]"]).data.manifest == (f"{tmp_path}/a", f"{tmp_path}/b")
    of_recipe = load(recipe(tmp_path, "storage: {path: ~}\ndata: {manifest: ~}"))
    assert (of_recipe.storage.path, of_recipe.data.manifest) == (str(tmp_path), None)
    assert load(None, ["storage.path=~"]).storage.path == str(tmp_path)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "train.epochs=5 #6",
            "--set train.epochs=5 #6: YAML ignores the text after #; remove it, or quote",
        ),
        ("train.epochs=1:30", "train.epochs: Input should be a valid integer, unable to parse string as an integer"),
        ("train.epochs=0x10", "train.epochs: Input should be a valid integer, unable to parse string as an integer"),
        ("train.epochs=on", "train.epochs: Input should be a valid integer, unable to parse string as an integer"),
        ("optim={lr: 1, lr: 2}", "--set optim={lr: 1, lr: 2}: optim.lr: duplicate key, again at line 1; remove one"),
        (
            "storage.path=$SCRATCH/runs",
            "storage.path: $SCRATCH/runs: shell variables such as $SCRATCH are not",
        ),
        (
            "train.global_batch_size=1",
            "train.global_batch_size: the head's batch norm needs at least 2 ",
        ),
    ],
)
def test_what_would_be_changed_or_fail_is_refused(override: str, problem: str) -> None:
    (found,) = problems("data.clip.clips_per_video=1", override)
    assert found.startswith(problem)


def test_numbers_are_as_people_write_them() -> None:
    config = load(None, ["train.epochs=010", "optim.lr=1e-3", "seed=1_000", "data.log_clips=on", "data.val_split=null"])
    assert (config.train.epochs, config.optim.lr, config.seed) == (10, 1e-3, 1000)
    assert config.data.log_clips is True
    assert config.data.val_split is None
    assert load(None, ["data.val_split="]).data.val_split is None
    assert load(None, ["secrets=[ON, B]"]).secrets == ("ON", "B")
    single = ["data.clip.clips_per_video=1", "train.global_batch_size=1", "model.head.num_layers=1"]
    assert load(None, single).train.global_batch_size == 1

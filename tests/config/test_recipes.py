from __future__ import annotations

from pathlib import Path

import pytest

from advise_ray.config import flatten, load, recipes
from advise_ray.errors import UsageError
from advise_ray.sweep.settings import settings_of
from advise_ray.video.splits import split_videos
from tests.runs import manifest_of

SHIPPED = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_says_what_it_is_for(path):
    config = load(path)
    assert config.data.manifest is None  # it is for the videos of whoever runs it
    header, _, _ = path.read_text().partition("\n")
    assert header.startswith("# ")
    assert len(header.split()) > 5
    assert f"--config {path.stem} " in path.read_text()
    assert max(map(len, path.read_text().splitlines())) <= 120


def test_the_recipes_that_the_paper_needs_are_shipped():
    sets = ("ucf101", "hmdb51", "diving48", "ssv2")
    names = {"quickstart", "pretrain_ucf101", "pretrain_ucf101_plus", "r3d50_ucf101", "ablate_no_tmm"}
    names |= {"ablate_from_scratch", *(f"{protocol}_{name}" for protocol in ("finetune", "linear") for name in sets)}
    assert names <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", [path for path in SHIPPED if load(path).search], ids=lambda path: path.stem)
def test_every_trial_of_a_shipped_sweep_is_a_configuration(path):
    seeds = {each["seed"] for each in settings_of(load(path))}
    assert len(seeds) > 1  # or the figure has no deviations


FITTING = [path for path in SHIPPED if path.stem.startswith(("finetune", "linear"))]


@pytest.mark.parametrize("path", FITTING, ids=lambda path: path.stem)
def test_what_follows_pretraining_has_its_features_and_never_sees_a_test_video(path):
    before = {"finetune_quickstart": "quickstart", "finetune_footage": "pretrain_footage"}
    pretraining = load(recipes.find(before.get(path.stem, "pretrain_ucf101_plus")))
    config = load(path)
    assert config.model.init_from is not None
    for part in ("ifm", "sfu", "tmm"):
        assert getattr(config.model, part) == getattr(pretraining.model, part)
    assert config.data.val_split is None
    assert not (config.augment.flip and "ssv2" in path.stem)  # it tells left from right


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_recipe_chooses_its_best_checkpoint_on_test_videos(path):
    data = load(path).data
    table = manifest_of({"train": 60, "test": 20})
    chosen = split_videos(table, data).val
    assert len(chosen)
    assert {table.column("split")[row].as_py() for row in chosen} == {"train"}


def test_an_ablation_changes_what_it_names_and_nothing_else():
    tuned, scratch, no_tmm = (
        flatten(load(recipes.find(name))) for name in ("finetune_ucf101", "ablate_from_scratch", "ablate_no_tmm")
    )
    assert {key for key in tuned if tuned[key] != scratch[key]} == {"model.init_from"}
    changed = {key for key in tuned if tuned[key] != no_tmm[key]}
    assert changed == {"model.init_from", "model.tmm.arch", "model.sfu.temporal_centering"}


def test_the_rival_trains_on_the_same_clips():
    ours, theirs = (flatten(load(recipes.find(name))) for name in ("pretrain_ucf101", "r3d50_ucf101"))
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert {key for key in differing if not key.startswith("model.")} == {"train.precision"}


def test_a_shipped_recipe_is_found_by_its_name():
    assert [recipes.find(path.stem).read_text() for path in SHIPPED] == [path.read_text() for path in SHIPPED]


def test_a_file_goes_before_a_shipped_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("seed: 1")
    assert recipes.find("quickstart") == Path("quickstart")
    assert recipes.find(str(tmp_path / "quickstart")) == tmp_path / "quickstart"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("quikstart", "did you mean quickstart?"),
        ("mine.yaml", "the shipped recipes are " + ", ".join(path.stem for path in SHIPPED)),
    ],
)
def test_an_unknown_name_is_answered_with_those_there_are(name, hint):
    with pytest.raises(UsageError) as caught:
        recipes.find(name)
    assert str(caught.value) == f"--config: no file {name}, and no shipped recipe of that name; {hint}"

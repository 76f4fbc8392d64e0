from __future__ import annotations

from pathlib import Path

import pytest

from advise_ray import recipes
from advise_ray.config import load
from advise_ray.errors import UsageError

SHIPPED = sorted((Path(__file__).parents[1] / "jobs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_says_what_it_is_for(path):
    config = load(path)
    assert config.data.manifest is None  # it is for the videos of whoever runs it
    header, _, _ = path.read_text().partition("\n")
    assert header.startswith("# ")
    assert len(header.split()) > 5


def test_a_shipped_recipe_is_found_by_its_name():
    assert [recipes.find(path.stem).read_text() for path in SHIPPED] == [path.read_text() for path in SHIPPED]


def test_a_file_goes_before_a_shipped_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("seed: 1")
    assert recipes.find("quickstart") == Path("quickstart")
    assert recipes.find(str(tmp_path / "quickstart")) == tmp_path / "quickstart"


def test_an_unknown_name_is_answered_with_those_there_are():
    names = ", ".join(path.stem for path in SHIPPED)
    with pytest.raises(UsageError) as caught:
        recipes.find("quikstart.yaml")
    assert str(caught.value) == f"--config: no file quikstart.yaml, and no shipped recipe of that name ({names})"

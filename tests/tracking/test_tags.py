"""User, source and description of a run in MLflow."""

from __future__ import annotations

import getpass
import os
import pwd
import sys
from pathlib import Path

import pytest

from advise_ray.tracking import tags
from tests.tracking.stores import config_of


@pytest.fixture(autouse=True)
def fresh() -> None:
    tags._here.cache_clear()


def test_a_run_has_a_user_where_the_environment_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "MLFLOW_TRACKING_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert tags.tags_of(config_of(tmp_path))["mlflow.user"] == pwd.getpwuid(os.getuid()).pw_name
    tags._here.cache_clear()
    monkeypatch.setattr(getpass, "getuser", lambda: {}["a user id without a name, in a container"])
    assert tags.tags_of(config_of(tmp_path))["mlflow.user"] == f"uid {os.getuid()}"


@pytest.mark.parametrize(
    ("script", "source"),
    [
        ("/venv/bin/advise-ray", "advise-ray"),
        ("/site-packages/advise_ray/__main__.py", "advise-ray"),
        ("/home/me/train.py", "/home/me/train.py"),
        ("", "advise-ray"),
    ],
)
def test_the_source_is_the_command_or_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, source: str
) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    found = tags.tags_of(config_of(tmp_path))
    assert (found["mlflow.source.name"], found["mlflow.source.type"]) == (source, "LOCAL")


def test_a_description_names_the_data_and_the_model(tmp_path: Path) -> None:
    text = tags.describe(config_of(tmp_path, "data.manifest=clips.parquet", "model.sfu.spatial_size=null"))
    assert text.startswith("playback rates of clips.parquet: ")
    assert "None" not in text


def test_the_description_of_a_sweep_names_what_it_searches(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        "data.manifest=clips.parquet",
        "tune={searcher: random, objective: finetune}",
        "search.model.sfu.spatial_size={choice: [1, 2, 4]}",
        "search.optim.lr={loguniform: [1.0e-4, 1.0e-2]}",
        "search.model.init_from={choice: [runs/a, null]}",
        "search.model.tmm.num_heads={given: model.tmm.arch, cases: {transformer: {choice: [2, 4]}}}",
    )
    assert tags.describe(config) == (
        "playback rates of clips.parquet: random search of model.sfu.spatial_size (1, 2, 4), "
        "model.init_from (a, null), model.tmm.num_heads by model.tmm.arch, optim.lr (0.0001 … 0.01); "
        "the highest acc_ft is best"
    )

"""Where a run is logged, from recipes and from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from advise_ray import tracking
from advise_ray.config import load, to_yaml
from advise_ray.errors import ConfigError, UsageError
from tests.tracking.stores import config_of


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("https://user:p@ss@host:5000/x", "https://***@host:5000/x"),
        ("postgresql://h/db?user=u&password=p&x=1", "postgresql://h/db?user=u&password=***&x=1"),
        (
            "failed: http://token@host/api, again: http://token@host",
            "failed: http://***@host/api, again: http://***@host",
        ),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_secrets_are_redacted(text: str, safe: str) -> None:
    assert tracking.redact(text) == safe


def test_the_store_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking.tracking_uri(load(None, ["storage.path=my runs"])) == f"sqlite:///{tmp_path}/my runs/mlflow.db"
    assert tracking.tracking_uri(load(None, ["tracking.uri=sqlite:///x.db"])) == f"sqlite:///{tmp_path}/x.db"


def test_mlflows_own_variables_count_where_a_recipe_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000/")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    config = config_of(tmp_path)
    assert tracking.destination(config) == "http://team:5000, experiment 'ours'"
    own = config_of(tmp_path, "tracking.uri=http://mine:1", "tracking.experiment=mine")
    assert tracking.destination(own) == "http://mine:1, experiment 'mine'"
    assert tracking.tracking_uri(config_of(tmp_path, "tracking.uri=null")) == f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert load(tmp_path / "config.yaml") == config  # a run keeps the server with which it began
    assert tracking.tracking_uri(config_of(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_password_in_the_environment_is_refused_by_the_name_of_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@team:5000")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI must not contain a password") as caught:
        load()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://host:5000/", "http://host:5000"),
        ("http://host:5000//", "http://host:5000"),
        ("https://host/mlflow/", "https://host/mlflow"),
        ("http://host:5000/#/experiments/3/runs", "http://host:5000"),
        ("sqlite:///~/mlflow.db", f"sqlite:///{Path.home()}/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_an_address_as_people_write_it(tmp_path: Path, given: str, meant: str) -> None:
    assert tracking.tracking_uri(config_of(tmp_path, f'tracking.uri="{given}"')) == meant


def test_a_shell_variable_in_a_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^tracking\.uri: .*\$HOME are not expanded"):
        tracking.tracking_uri(config_of(tmp_path, "tracking.uri=sqlite:///$HOME/mlflow.db"))

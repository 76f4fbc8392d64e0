"""The alias `best`: models are compared only if they were validated alike."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from advise_ray import tracking
from advise_ray.errors import TrackingError
from advise_ray.tracking import model_registry
from tests.tracking.stores import config_of

RATES = ["×1", "×2"]


class Registry:
    """Registers models without files under one name."""

    def __init__(self, storage: Path, folder: Path, experiment: str) -> None:
        self.storage, self.folder, self.experiment = storage, folder, experiment

    def add(self, top1: float | None, *settings: str, manifest: str = "one", classes: list[str] = RATES) -> str:
        """Returns the version that has the alias `best` afterwards; empty if none has it."""
        from mlflow.exceptions import MlflowException

        config = config_of(self.storage, f"tracking.experiment={self.experiment}", *settings)
        client, experiment = tracking.connect(config)
        run_id = client.create_run(experiment).info.run_id
        model = client.create_logged_model(experiment, "model", run_id)
        metrics = {} if top1 is None else {"val/top1": top1}
        state: dict[str, Any] = {"metrics": metrics, "manifest_sha256": manifest, "classes": classes}
        (self.folder / "state.json").write_text(json.dumps(state))
        model_registry.register(client, config, run_id, self.folder, f"models:/{model.model_id}")
        try:
            return str(client.get_model_version_by_alias(model_registry.model_name(config), "best").version)
        except MlflowException:
            return ""


@pytest.fixture
def registry(storage: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Registry:
    return Registry(storage, tmp_path, request.node.name)


def test_the_better_of_two_alike_is_best(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    assert [registry.add(top1) for top1 in (0.5, 0.4, 0.6, 0.6)] == ["1", "1", "3", "4"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        ({"manifest": "two"}, "manifest_sha256"),
        ({"classes": ["×1", "×2", "×4"]}, "classes"),
        ({"settings": ("data.val_split=test",)}, "data.val_split"),
        ({"settings": ("data.val_split=null", "data.val_fraction=0.2")}, "data.val_split, data.val_fraction"),
    ],
)
def test_the_alias_stays_if_two_cannot_be_compared(
    registry: Registry, caplog: pytest.LogCaptureFixture, other: dict[str, Any], differing: str
) -> None:
    registry.add(0.5)
    settings = other.pop("settings", ())
    assert registry.add(0.9, *settings, **other) == "1"
    (message,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "the alias `best` stays at version 1" in message
    assert f"(different {differing})" in message


def test_tasks_have_models_of_their_own(registry: Registry) -> None:
    assert registry.add(0.5) == "1"
    assert registry.add(0.1, "task=action", classes=["run", "jump"]) == "1"


def test_a_model_without_validation_is_never_best(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    assert registry.add(None) == ""
    assert "has no val/top1" in caplog.text
    assert registry.add(0.1) == "2"
    assert registry.add(None) == "2"
    assert registry.add(float("nan")) == "2"


def test_a_version_of_an_earlier_release_keeps_the_alias(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    registry.add(0.5)
    client, _ = tracking.connect(config_of(registry.storage))
    name = f"{registry.experiment}-prp"
    for key in ("manifest_sha256", "classes"):
        client.delete_model_version_tag(name, "1", key)
    assert registry.add(0.9) == "1"
    assert "(different manifest_sha256, classes)" in caplog.text


def test_a_model_is_looked_up_in_the_folder_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(TrackingError, match=r"there is no MLflow store .*/runs/mlflow\.db; set MLFLOW_TRACKING_URI"):
        model_registry.fetch("models:/advise-ray-prp@best")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    tracking.connect(config_of(tmp_path / "runs"))
    with pytest.raises(TrackingError, match=r"advise-ray-prp@best: cannot download .*/runs/mlflow\.db .*not found"):
        model_registry.fetch("models:/advise-ray-prp@best")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]

"""SQLite files that cannot take a run are found before it starts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from advise_ray import tracking
from advise_ray.errors import AdviseRayError
from advise_ray.tracking import sqlite_store
from tests.tracking.stores import config_of


@pytest.fixture
def store(storage: Path, tmp_path: Path) -> Path:
    """A copy of a store."""
    tracking.connect(config_of(storage))
    with (
        closing(sqlite3.connect(storage / "mlflow.db")) as source,
        closing(sqlite3.connect(tmp_path / "a.db")) as target,
    ):
        source.backup(target)
    return tmp_path / "a.db"


def refused(db: Path) -> str:
    with pytest.raises(AdviseRayError) as caught:
        tracking.check(config_of(db.parent, f"tracking.uri=sqlite:///{db}"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(db: Path, statement: str) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute(statement)


def test_a_new_store_has_the_schema_of_the_installed_mlflow(store: Path) -> None:
    with closing(sqlite3.connect(store)) as connection:
        found = {version for (version,) in connection.execute("SELECT * FROM alembic_version")}
    known, newest = sqlite_store.schema_versions()
    assert found == newest
    assert len(known) > 50


def test_stores_of_other_versions_of_mlflow(store: Path) -> None:
    known, newest = sqlite_store.schema_versions()
    change(store, f"UPDATE alembic_version SET version_num = '{min(known - newest)}'")
    assert refused(store).endswith(f"save a copy of it, then run: mlflow db upgrade sqlite:///{store}")
    change(store, "UPDATE alembic_version SET version_num = 'of next year'")
    assert "pip install --upgrade mlflow" in refused(store)


def test_a_store_that_another_process_locks(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "LOCK_WAIT_S", 0.1)
    with closing(sqlite3.connect(store)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "database is locked; another process writes to this file" in refused(store)
    tracking.check(config_of(store.parent, f"tracking.uri=sqlite:///{store}"))


def test_a_store_that_is_read_only(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, _mode: path != store)  # the super-user may write everything
    assert f"Permission denied: '{store}'; make the file and its folder writable" in refused(store)


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at " * 20)
    assert "file is not a database; name another file" in refused(tmp_path / "text.db")
    change(tmp_path / "other.db", "CREATE TABLE studies (name TEXT)")
    assert "a database of another program, not of MLflow" in refused(tmp_path / "other.db")
    (tmp_path / "folder.db").mkdir()
    assert "unable to open database file" in refused(tmp_path / "folder.db")


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    config = config_of(tmp_path, f"tracking.uri=sqlite:///{tmp_path}/empty.db")
    tracking.check(config)
    assert (tmp_path / "empty.db").stat().st_size == 0
    client, experiment = tracking.connect(config)
    assert client.get_experiment(experiment).name == "advise-ray"

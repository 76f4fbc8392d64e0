"""MLflow's SQLite file: creates it, and checks it without importing MLflow, which takes seconds."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import sqlite3
import tempfile
import uuid
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from advise_ray.errors import UsageError
from advise_ray.tracking.isolation import isolated

LOCK_WAIT_S = 10.0


class Experiment(NamedTuple):
    """An experiment of a store."""

    id: str
    is_deleted: bool


def create(db: Path) -> None:
    """Create a store. MLflow creates the tables in memory, so that a killed process leaves no part of a file."""
    memory = f"file:advise-ray-{uuid.uuid4().hex}?mode=memory&cache=shared"
    with closing(sqlite3.connect(memory, uri=True)) as source:  # open, so that the memory is kept
        with isolated(MLFLOW_SQLALCHEMYSTORE_POOLCLASS="StaticPool"):
            from mlflow import MlflowClient

            MlflowClient(f"sqlite:///{memory}&uri=true").search_experiments(max_results=1)
        with tempfile.TemporaryDirectory(dir=db.parent, prefix=".mlflow-") as folder:
            new = Path(folder) / db.name
            with closing(sqlite3.connect(new)) as target:
                source.backup(target)
            new.replace(db)


def find_experiment(db: Path, name: str) -> Experiment | None:
    """Find an experiment in a store that can be written. None: there is no store, or it has no such experiment.

    Raises:
        UsageError: the database is not MLflow's, or that of another version of MLflow.
        sqlite3.Error, OSError: the store cannot be written.
    """
    _require_writable(db.parent)
    if not db.exists():
        return None
    _require_writable(db)  # SQLite opens such a file for reading only, and fails at the first write
    with closing(sqlite3.connect(f"{db.as_uri()}?mode=rw", uri=True, timeout=LOCK_WAIT_S)) as connection:
        connection.execute("BEGIN IMMEDIATE")  # fails if the file is locked for long
        tables = {table for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return None
        if not {"alembic_version", "experiments"} <= tables:
            raise UsageError(f"{db} is a database of another program, not of MLflow; name another file")
        _refuse_other_version(db, *(version for (version,) in connection.execute("SELECT * FROM alembic_version")))
        query = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ? ORDER BY lifecycle_stage"
        found = connection.execute(query, (name,)).fetchone()
    return Experiment(str(found[0]), found[1] == "deleted") if found else None


def _require_writable(path: Path) -> None:
    existing = next(each for each in (path, *path.parents) if each.exists())
    if not os.access(existing, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))


def _refuse_other_version(db: Path, *versions: str) -> None:
    """MLflow itself would upgrade some of its older databases without a question, and call newer ones out of date."""
    known, newest = schema_versions()
    if not newest or set(versions) == newest:
        return
    if known.issuperset(versions):
        raise UsageError(
            f"{db} belongs to an older MLflow; save a copy of it, then run: mlflow db upgrade sqlite:///{db}"
        )
    raise UsageError(f"{db} belongs to a newer MLflow; run `pip install --upgrade mlflow`, or name another file")


def schema_versions() -> tuple[set[str], set[str]]:
    """All versions of the database schema that the installed MLflow knows, and the newest, from its migrations."""
    package = importlib.util.find_spec("mlflow")
    assert package is not None
    assert package.origin is not None
    texts = [path.read_text() for path in Path(package.origin).parent.glob("store/db_migrations/versions/*.py")]
    known, replaced = (
        {version for text in texts for version in re.findall(rf'^{name} = "(\w+)"', text, re.MULTILINE)}
        for name in ("revision", "down_revision")
    )
    return known, known - replaced

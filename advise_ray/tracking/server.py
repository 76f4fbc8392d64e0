"""MLflow's server or store: a check that it can be used, and a client for it."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from advise_ray.config import Config
from advise_ray.errors import UsageError
from advise_ray.storage.atomic import require_folder, size_bytes
from advise_ray.storage.lock import hold_lock
from advise_ray.tracking import sqlite_store
from advise_ray.tracking.address import DATABASES, redact, sqlite_file, tracking_uri
from advise_ray.tracking.isolation import isolated
from advise_ray.tracking.server_errors import server_errors
from advise_ray.tracking.sqlite_store import Experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCK_WAIT_S = 60.0


def check(config: Config) -> None:
    """Check that a run can be logged. Creates nothing, not even a missing SQLite store.

    Raises:
        TrackingError: the server or the store cannot be used now.
        UsageError: its address is wrong, or the experiment was deleted.
    """
    uri, name = tracking_uri(config), config.tracking.experiment
    with server_errors(config):
        if db := sqlite_file(uri):
            experiment = sqlite_store.find_experiment(db, name)
        else:
            with isolated():
                found = _client(uri).get_experiment_by_name(name)
            experiment = found and Experiment(found.experiment_id, found.lifecycle_stage == "deleted")
    if experiment and experiment.is_deleted:
        restore = f"MLFLOW_TRACKING_URI={shlex.quote(redact(uri))} mlflow experiments restore -x {experiment.id}"
        raise UsageError(
            f"tracking.experiment: {name!r} was deleted in MLflow; restore it with `{restore}`, or name another "
            "tracking.experiment"
        )


def connect(config: Config) -> tuple[MlflowClient, str]:
    """A client and the id of the experiment. Creates the store and the experiment if necessary.

    The first access of a SQLite store creates its tables. Two processes that do this at the same time fail (seen with
    mlflow 3.17), so a lock serialises them.

    Raises:
        TrackingError, UsageError: as `check`.
    """
    check(config)
    uri, name, artifacts = tracking_uri(config), config.tracking.experiment, None
    with server_errors(config), isolated(), ExitStack() as stack:
        if uri.startswith(DATABASES):
            db = sqlite_file(uri)
            folder = db.parent if db else Path(config.storage.path)
            if config.tracking.uri is None:
                require_folder(folder)
            else:
                folder.mkdir(parents=True, exist_ok=True)
            artifacts = (folder / "mlflow-artifacts").as_uri()  # the default is the working directory
            stack.enter_context(hold_lock(folder / ".mlflow.lock", LOCK_WAIT_S))
            if db and not size_bytes(db):
                sqlite_store.create(db)
        client = _client(uri)
        experiment = client.get_experiment_by_name(name)
        return client, experiment.experiment_id if experiment else _create(client, name, artifacts)


def _create(client: MlflowClient, name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name, artifact_location=artifacts))
    except MlflowException:
        if experiment := client.get_experiment_by_name(name):  # another run has created it in the meantime
            return str(experiment.experiment_id)
        raise


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    if uri.startswith(DATABASES) and not sqlite_file(uri):
        _connect_once(uri)
    return MlflowClient(uri)


def _connect_once(uri: str) -> None:
    """Raise the error of a database that does not answer. MLflow's ten tries to open a database take 100 s."""
    from sqlalchemy import create_engine

    engine = create_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()

"""MLflow's server or store: where it is, whether it answers, and what is never said of it."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sqlite3
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from advise_ray.config import Config
from advise_ray.errors import TrackingError
from advise_ray.storage.atomic import require_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
ENVIRONMENT = {
    # A server that is away must be known to be away within seconds; MLflow's default is minutes of retries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def tracking_uri(config: Config) -> str:
    """The configured server or store; else the SQLite store in `storage.path`, which is made on first use."""
    uri = config.tracking.uri or f"sqlite:///{Path(config.storage.path) / 'mlflow.db'}"
    if not uri.startswith("sqlite:///"):
        return uri
    return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"


def ui_command(config: Config) -> str:
    """The address of the MLflow UI, or the line that serves it from this store, to this machine only."""
    uri = redact(tracking_uri(config))
    if not uri.startswith(DATABASES):
        return uri
    return f"mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri {shlex.quote(uri)}"


def redact(text: str) -> str:
    """`text` without the user names, passwords and tokens of the URIs in it."""
    return re.sub(r"(?<=://)[^/\s]+(?=@)|(?<=password=)[^&\s]+|(?<=token=)[^&\s]+", "***", text)


def check(config: Config) -> None:
    """Raise TrackingError unless the server or the store answers; an unmade SQLite store is left unmade."""
    db = _sqlite_file(tracking_uri(config))
    if db is None or db.exists():
        with told(config):
            _client(tracking_uri(config)).search_experiments(max_results=1)


def connect(config: Config) -> tuple[MlflowClient, str]:
    """A client of a store that exists, and the id of the experiment.

    The first touch of a SQLite store makes its tables, and two processes that do so at once break each other
    (measured on mlflow 3.17): a lock keeps them apart.
    """
    uri, name, artifacts = tracking_uri(config), config.tracking.experiment, None
    with ExitStack() as stack:
        if uri.startswith(DATABASES):
            db = _sqlite_file(uri)
            folder = db.parent if db else Path(config.storage.path)
            if config.tracking.uri is None:
                require_folder(folder)
            folder.mkdir(parents=True, exist_ok=True)
            artifacts = (folder / "mlflow-artifacts").as_uri()  # else they would go into the working directory
            stack.enter_context(FileLock(folder / ".mlflow.lock", timeout=60))
            if db and not db.exists():
                _create(db)
        client = _client(uri)
        if experiment := client.get_experiment_by_name(name):
            return client, experiment.experiment_id
        return client, client.create_experiment(name, artifact_location=artifacts)


def _client(uri: str) -> MlflowClient:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):  # what they would print is retried or told here
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if uri.startswith(DATABASES):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 2  # there is no setting for it: ten tries to open a database take 100 s
    return MlflowClient(uri)


def _create(db: Path) -> None:
    """Make the SQLite store aside and move it into place, so that a killed process leaves no half of one.

    Unflushed until then, MLflow's migrations take 1.5 s for 2.3 s, and on a busy disk 3 s for 7 s.
    """
    from sqlalchemy import Engine, event

    def no_flush(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    with tempfile.TemporaryDirectory(dir=db.parent, prefix=".mlflow-") as folder:
        new = Path(folder) / db.name
        event.listen(Engine, "connect", no_flush)
        try:
            _client(f"sqlite:///{new}").search_experiments(max_results=1)
        finally:
            event.remove(Engine, "connect", no_flush)
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(db)


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None


@contextmanager
def told(config: Config) -> Iterator[None]:
    """Turn what MLflow, SQLAlchemy and requests raise, each their own kinds, into one clear line."""
    try:
        yield
    except Exception as error:
        advice = "start the server, or correct or unset it" if config.tracking.uri else "storage.path must be writable"
        uri = redact(tracking_uri(config))
        raise TrackingError(f"tracking.uri: cannot log to {uri}: {reason_of(error)}; {advice}") from None


def reason_of(error: BaseException) -> str:
    """The cause behind it all where that is the system's or SQLite's, and never a secret."""
    root = error
    while root.__context__ is not None:
        root = root.__context__
    text = str(root if isinstance(root, OSError | sqlite3.Error) else error).strip() or type(error).__name__
    return textwrap.shorten(redact(text.splitlines()[0]), 240, placeholder=" …")

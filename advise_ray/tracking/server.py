"""MLflow's server or store: its address, a check that it answers, and the redaction of its secrets."""

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
    # An unreachable server must be noticed within seconds; MLflow's defaults retry for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def tracking_uri(config: Config) -> str:
    """The configured server or store. Default: a SQLite store in `storage.path`, created at its first use."""
    uri = config.tracking.uri or f"sqlite:///{Path(config.storage.path) / 'mlflow.db'}"
    if not uri.startswith("sqlite:///"):
        return uri
    return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"


def ui_command(config: Config) -> str:
    """The address of the MLflow UI, or the command that serves it from this store, for this machine only."""
    uri = redact(tracking_uri(config))
    if not uri.startswith(DATABASES):
        return uri
    return f"mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri {shlex.quote(uri)}"


def redact(text: str) -> str:
    """Replace user names, passwords and tokens in the URIs of `text` by `***`."""
    return re.sub(r"(?<=://)[^/\s]+(?=@)|(?<=password=)[^&\s]+|(?<=token=)[^&\s]+", "***", text)


def check(config: Config) -> None:
    """Raise TrackingError unless the server or the store answers. Does not create a missing SQLite store."""
    db = _sqlite_file(tracking_uri(config))
    if db is None or db.exists():
        with tracking_errors(config):
            _client(tracking_uri(config)).search_experiments(max_results=1)


def connect(config: Config) -> tuple[MlflowClient, str]:
    """A client and the id of the experiment. Creates the store and the experiment if necessary.

    The first access of a SQLite store creates its tables. Two processes that do this at the same time fail (seen with
    mlflow 3.17), so a lock serialises them.
    """
    uri, name, artifacts = tracking_uri(config), config.tracking.experiment, None
    with ExitStack() as stack:
        if uri.startswith(DATABASES):
            db = _sqlite_file(uri)
            folder = db.parent if db else Path(config.storage.path)
            if config.tracking.uri is None:
                require_folder(folder)
            folder.mkdir(parents=True, exist_ok=True)
            artifacts = (folder / "mlflow-artifacts").as_uri()  # the default is the working directory
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

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):  # their errors are retried or reported by this module
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if uri.startswith(DATABASES):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 2  # MLflow has no setting for this; its ten tries to open a database take 100 s
    return MlflowClient(uri)


def _create(db: Path) -> None:
    """Create the SQLite store in a temporary folder and move it into place, so that a killed process leaves no part.

    The migrations run without flushing to disk, which is faster. The finished file is flushed once.
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
def tracking_errors(config: Config) -> Iterator[None]:
    """Convert the different errors of MLflow, SQLAlchemy and requests to a TrackingError with one clear line."""
    try:
        yield
    except Exception as error:
        advice = "start the server, or correct or unset it" if config.tracking.uri else "storage.path must be writable"
        uri = redact(tracking_uri(config))
        raise TrackingError(f"tracking.uri: cannot log to {uri}: {reason_of(error)}; {advice}") from None


def reason_of(error: BaseException) -> str:
    """One line with the reason: the root cause if it is an OS or SQLite error, else the error. Secrets are redacted."""
    root = error
    while root.__context__ is not None:
        root = root.__context__
    text = str(root if isinstance(root, OSError | sqlite3.Error) else error).strip() or type(error).__name__
    return textwrap.shorten(redact(text.splitlines()[0]), 240, placeholder=" …")

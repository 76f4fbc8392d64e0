"""Where a run is logged: the address of MLflow's server or store, and how it is shown without its secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path

from advise_ray.config import Config
from advise_ray.config.section import absolute
from advise_ray.errors import UsageError

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SQLITE = "sqlite:///"


def tracking_uri(config: Config) -> str:
    """The server or store of a run. Default: a SQLite store in `storage.path`, created at its first use.

    A page of the MLflow UI, such as `http://host:5000/#/experiments/1`, becomes the address of its server.

    Raises:
        UsageError: the path of a SQLite store contains a shell variable.
    """
    uri = config.tracking.uri or f"{SQLITE}{Path(config.storage.path) / 'mlflow.db'}"
    if uri.startswith(("http://", "https://")):
        return uri.partition("#")[0].rstrip("/")
    if not uri.startswith(SQLITE):
        return uri
    try:
        return SQLITE + absolute(uri.removeprefix(SQLITE))
    except ValueError as error:
        raise UsageError(f"{source(config)}: {error}") from None


def source(config: Config) -> str:
    """The setting that an error about the address names: `tracking.uri`, the environment variable or `storage.path`."""
    if config.tracking.uri is None:
        return "storage.path"
    return "MLFLOW_TRACKING_URI" if config.tracking.uri == os.environ.get("MLFLOW_TRACKING_URI") else "tracking.uri"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for a server or another database."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def destination(config: Config) -> str:
    """One line for people: the server or store, and the experiment."""
    return f"{redact(tracking_uri(config))}, experiment {config.tracking.experiment!r}"


def redact(text: str) -> str:
    """Replace user names, passwords and tokens in the URIs of `text` by `***`."""
    return re.sub(r"(?<=://)[^/\s]+(?=@)|(?<=password=)[^&\s]+|(?<=token=)[^&\s]+", "***", text)

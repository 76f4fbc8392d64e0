"""Turns the errors of MLflow, SQLAlchemy and requests into one line: what is wrong, where, and what to do."""

from __future__ import annotations

import re
import sqlite3
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from advise_ray.config import Config
from advise_ray.errors import AdviseRayError, TrackingError, UsageError
from advise_ray.tracking.address import redact, source, tracking_uri

REASON_LENGTH = 240
_LOGIN = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN (for a job on a cluster, also "
    "name them in `secrets`)"
)
_ADDRESS = "write http://HOST:PORT for a server, or sqlite:///PATH/mlflow.db for a file"


class Kind(NamedTuple):
    """A kind of error.

    Attributes:
        pattern: regular expression that finds the kind in the messages of an error and its causes.
        reason: what is wrong; None: the message of the error.
        advice: what to do.
        is_usage: whether the address itself is wrong, so that no retry helps.
    """

    pattern: str
    reason: str | None
    advice: str
    is_usage: bool = False


KINDS = (
    Kind("filesystem tracking backend", "MLflow no longer logs to a folder", _ADDRESS, True),
    Kind("unsupported URI|Invalid url|Unity Catalog tracking", "this is no address of MLflow", _ADDRESS, True),
    Kind("Invalid SQLite URL", "this is no address of a SQLite store", "write sqlite:///PATH/mlflow.db", True),
    Kind("Databricks credential", "there is no login for Databricks", "set DATABRICKS_HOST and DATABRICKS_TOKEN"),
    Kind("No module named", None, "install this driver of the database"),
    Kind("Invalid Host header", "the server refuses this host name", "start it with --allowed-hosts, or use its IP"),
    Kind("code 401|UNAUTHENTICATED|(?i:: unauthorized|not authenticated)", "the server wants a login (401)", _LOGIN),
    Kind("code 403|PERMISSION_DENIED", "access is denied (403)", f"ask its owner for access, or {_LOGIN}"),
    Kind("code 407|ProxyError|to proxy", "the proxy refuses the connection", "correct HTTP_PROXY, or set NO_PROXY"),
    Kind("INTERNAL_ERROR: Response:", None, f"if this is no MLflow server, correct the address: {_ADDRESS}"),
    Kind("code 404|not in a valid JSON", "this is not an MLflow server", f"correct the address: {_ADDRESS}"),
    Kind(
        "CERTIFICATE_VERIFY_FAILED",
        None,
        "set MLFLOW_TRACKING_SERVER_CERT_PATH to a file with the certificate of the server's authority",
    ),
    Kind("WRONG_VERSION_NUMBER|record layer", "the server does not use TLS", "write http:// instead of https://"),
    Kind("to an? HTTPS|BadStatusLine|ConnectionReset|Connection reset", None, "if the server uses TLS, write https://"),
    Kind("Connection refused", None, "start the server, or correct the address"),
    Kind("Failed to resolve|Name or service not known", None, "correct the name of the host, or join its network"),
    Kind("timed out|No route to host|Network is unreachable", None, "check the address, the network and firewalls"),
    Kind("too many 429", "the server limits the rate of requests (429)", "try again later"),
    Kind(r"too many 5\d\d|code 5\d\d", "the server fails", "look at its log, and try again later"),
    Kind("database is locked", None, "another process writes to this file; wait until it has ended"),
    Kind("disk is full|No space left|quota exceeded", None, "free space on this disk"),
    Kind("readonly database|Permission denied|Read-only file", None, "make the file and its folder writable"),
    Kind("not a database", None, "name another file, or move this one away"),
    Kind("unable to open database file", None, "the file and its folder must be writable"),
    Kind(
        "out-of-date database schema",
        "the database belongs to another version of MLflow",
        "if it is older, save a copy and run `mlflow db upgrade`; if it is newer, run `pip install --upgrade mlflow`",
        True,
    ),
    Kind("password authentication failed|Access denied for", None, "PostgreSQL reads passwords from ~/.pgpass"),
)


@contextmanager
def server_errors(config: Config) -> Iterator[None]:
    """Convert errors of the server or the store.

    Raises:
        TrackingError: the server or the store cannot be used now.
        UsageError: its address is wrong.
    """
    try:
        yield
    except AdviseRayError:
        raise
    except Exception as error:  # MLflow, SQLAlchemy and requests raise unrelated types
        kind = kind_of(error)
        advice = kind.advice if kind else f"check {source(config)}"
        message = f"{source(config)}: cannot log to {redact(tracking_uri(config))}: {reason_of(error)}; {advice}"
        raise (UsageError if kind and kind.is_usage else TrackingError)(message) from None


def kind_of(error: BaseException) -> Kind | None:
    """The first of KINDS that the error belongs to."""
    text = "\n".join(f"{type(each).__name__}: {each}" for each in _with_causes(error))
    return next((kind for kind in KINDS if re.search(kind.pattern, text)), None)


def reason_of(error: BaseException) -> str:
    """One line with the reason: that of its kind, or the root cause if it is an OS or SQLite error, or the error.

    Secrets are redacted.
    """
    if (kind := kind_of(error)) and kind.reason is not None:
        return kind.reason
    root = _with_causes(error)[-1]
    text = str(root if isinstance(root, OSError | sqlite3.Error) else error).strip() or type(error).__name__
    return textwrap.shorten(redact(text.splitlines()[0]), REASON_LENGTH, placeholder=" …")


def _with_causes(error: BaseException) -> list[BaseException]:
    chain = [error]
    while chain[-1].__context__ is not None:
        chain.append(chain[-1].__context__)
    return chain

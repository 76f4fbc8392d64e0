"""Keeps our use of MLflow from changing the process, such as a notebook that uses MLflow itself.

MLflow reads its limits from environment variables and logs to loggers of the whole process. `isolated` sets the
variables for as long as one of its blocks runs, and hides log lines of the calling thread only.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

SETTINGS = {
    # An unreachable server must be noticed within seconds; MLflow's defaults retry for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_lock = threading.Lock()
_users: Counter[str] = Counter()
"""How many blocks of `isolated` need each variable that they have set."""


@contextmanager
def isolated(**more: str) -> Iterator[None]:
    """Use MLflow inside the `with` block: with our limits, and without log lines of this thread.

    Args:
        more: environment variables in addition to SETTINGS. Variables that the user has set are kept.
    """
    with _variables({**SETTINGS, **more}):
        import mlflow  # noqa: F401  (the import creates MLflow's log handlers, and reads variables)

        with quiet():
            yield


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what MLflow and its HTTP library log in this thread. Their errors are raised, and reported by us."""
    hidden = _NotThisThread()
    handlers = {handler for name in ("mlflow", "alembic") for handler in logging.getLogger(name).handlers}
    filtered: list[logging.Filterer] = [*handlers, logging.getLogger("urllib3.connectionpool")]
    for each in filtered:
        each.addFilter(hidden)
    try:
        yield
    finally:
        for each in filtered:
            each.removeFilter(hidden)


class _NotThisThread(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables until the last of several simultaneous blocks has ended."""
    with _lock:
        ours = [name for name in values if name not in os.environ or _users[name]]
        for name in ours:
            os.environ[name] = values[name]
            _users[name] += 1
    try:
        yield
    finally:
        with _lock:
            for name in ours:
                _users[name] -= 1
                if not _users[name]:
                    os.environ.pop(name, None)

"""Direct links to the pages of the MLflow UI, and the command that serves it from a store without a server."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from urllib.parse import quote, urlencode

from advise_ray.config import Config
from advise_ray.tracking.address import DATABASES, redact, tracking_uri
from advise_ray.tracking.tracking_state import TrackingState
from advise_ray.tracking.views import view_of

SERVED = "http://127.0.0.1:5000"
"""Where `ui_command` serves the UI."""
MODE = {"workflowType": "machine_learning"}
"""Without it, MLflow opens its pages for language models."""


def ui_command(config: Config) -> str:
    """The address of the MLflow UI, or the command that serves it from this store, for this machine only."""
    uri = redact(tracking_uri(config)).replace("://***@", "://")  # a browser would log in as this user
    if not uri.startswith(DATABASES):
        return uri
    host, port = SERVED.removeprefix("http://").split(":")
    return f"mlflow server --host {host} --port {port} --backend-store-uri {shlex.quote(uri)}"


def link(config: Config, run_dir: Path) -> str | None:
    """The page with the curves of a run, or with the trials of a sweep, best first.

    None if MLflow does not have the run yet, or if its address is not that of an MLflow server, such as `databricks`.
    """
    if config.search:
        return table_link(config, run_dir)
    state = TrackingState.read(run_dir)
    if state.run_id is None:
        return None
    return _page(config, state, f"runs/{state.run_id}/model-metrics", MODE)


def table_link(config: Config, run_dir: Path) -> str | None:
    """The table of the trials of a sweep, or of all runs of the experiment of a run. None: see `link`."""
    state = TrackingState.read(run_dir)
    if state.run_id is None:
        return None
    if state.view is not None:
        # With a filter or an order beside it, MLflow would ignore the view.
        return _page(config, state, "runs", MODE | {"viewStateShareKey": state.view})
    view = json.loads(view_of(config, run_dir.name, state.run_id).state)
    order = {"orderByKey": view["orderByKey"], "orderByAsc": str(view["orderByAsc"]).lower()}
    return _page(config, state, "runs", MODE | {"searchFilter": view["searchFilter"]} | order)


def _page(config: Config, state: TrackingState, path: str, query: dict[str, str]) -> str | None:
    uri = redact(tracking_uri(config))
    server = SERVED if uri.startswith(DATABASES) else uri
    if state.experiment_id is None or not server.startswith(("http://", "https://")):
        return None
    return f"{server}/#/experiments/{state.experiment_id}/{path}?{urlencode(query, quote_via=quote)}"

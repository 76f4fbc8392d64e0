"""The only package that uses MLflow. A run's directory is the source of truth, and MLflow gets a copy.

This package must not depend on Ray or on how a run is trained. It leaves MLflow's settings of the process as they are.
"""

from advise_ray.tracking.address import destination, redact, tracking_uri
from advise_ray.tracking.data_sets import Context, DataSet, data_sets
from advise_ray.tracking.links import link, table_link, ui_command
from advise_ray.tracking.run_tracker import RunTracker, tracked
from advise_ray.tracking.server import check, connect

__all__ = [
    "Context",
    "DataSet",
    "RunTracker",
    "check",
    "connect",
    "data_sets",
    "destination",
    "link",
    "redact",
    "table_link",
    "tracked",
    "tracking_uri",
    "ui_command",
]

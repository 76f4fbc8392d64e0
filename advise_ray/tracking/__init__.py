"""MLflow: the one place that uses it. A run's directory is the truth, and MLflow gets a copy.

It must not know Ray or how a run is trained.
"""

from advise_ray.tracking.run_tracker import RunTracker
from advise_ray.tracking.server import check, connect, redact, tracking_uri, ui_command

__all__ = ["RunTracker", "check", "connect", "redact", "tracking_uri", "ui_command"]

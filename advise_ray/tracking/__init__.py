"""MLflow, and nothing else that knows it."""

from advise_ray.tracking.run import RunTracker
from advise_ray.tracking.store import check, connect, redact, tracking_uri, ui_command

__all__ = ["RunTracker", "check", "connect", "redact", "tracking_uri", "ui_command"]

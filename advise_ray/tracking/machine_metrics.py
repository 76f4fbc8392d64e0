"""Lets MLflow record the CPUs, memory, disk, network and GPUs of the driver's machine."""

from __future__ import annotations

import threading
from typing import Any

from advise_ray.tracking.isolation import isolated, quiet

LAST_TRY_S = 2.0


class MachineMetrics:
    """Records every 10 s, until `finish` or until MLflow cannot be reached.

    Args:
        uri: address of MLflow.
        run_id: MLflow's id of the run.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        with isolated():
            self._monitor = _monitor(run_id, resume_logging=True, tracking_uri=uri)
            self._monitor.start()

    def finish(self) -> None:
        """Stop recording. Waits for a server that does not answer for LAST_TRY_S only."""

        def finish() -> None:
            with quiet():
                self._monitor.finish()

        ending = threading.Thread(target=finish, name="mlflow-machine", daemon=True)
        ending.start()
        ending.join(LAST_TRY_S)


def _monitor(run_id: str, **options: Any) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    class Monitor(SystemMetricsMonitor):
        def monitor(self) -> None:
            """Runs in a thread of its own."""
            with quiet():
                super().monitor()

    return Monitor(run_id, **options)

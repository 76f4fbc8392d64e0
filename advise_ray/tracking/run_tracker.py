"""Copies a run to MLflow: a thread of the driver follows the run directory and sends new metrics, tags and artifacts.

The run directory is the source of truth. If the server becomes unreachable, the run continues; what the server missed
is sent when it answers again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advise_ray.config import Config, load
from advise_ray.errors import AdviseRayError, TrackingError, UsageError
from advise_ray.storage.retry import patiently
from advise_ray.tracking.address import redact, tracking_uri
from advise_ray.tracking.data_sets import DataSet
from advise_ray.tracking.machine_metrics import MachineMetrics
from advise_ray.tracking.sender import Sender
from advise_ray.tracking.server_errors import kind_of, reason_of, server_errors
from advise_ray.tracking.tags import tags_of
from advise_ray.tracking.tracking_state import EndOfRun, TrackingState

log = logging.getLogger("advise_ray")

POLL_S = 1.0
LONGEST_WAIT_S = 30.0  # longest wait between two retries while the server is unreachable
LAST_TRY_S = 20.0  # how long the end of a run waits for an unreachable server
LONGEST_UPLOAD_S = 300.0  # how long the end of a run waits for a reachable server, because a model upload is slow


class RunTracker:
    """One run in MLflow. Only the driver writes to it. A resumed run directory continues its MLflow run."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        self.config, self.run_dir = config, run_dir
        self._state = TrackingState.read(run_dir)
        self._sender = Sender(config, self._state)
        self._unreachable = self._abandoned = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._machine: MachineMetrics | None = None

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None before `start`."""
        return self._state.run_id

    @property
    def complete(self) -> bool:
        """Whether the run has ended and MLflow has all of it."""
        return self._state.complete

    def start(
        self,
        device: str,
        *,
        name: str | None = None,
        parent_id: str | None = None,
        params: Mapping[str, Any] | None = None,
        data_sets: Sequence[DataSet] = (),
    ) -> str:
        """Create the run with its parameters and tags, or set an existing run to running. Returns MLflow's id.

        From now on a thread sends the lines of the run's `metrics.jsonl` as they are written, until `finish`.

        Args:
            name: name of the run. None: the name of the run directory.
            parent_id: MLflow id of the parent run.
            params: parameters in addition to those of the configuration.
            data_sets: what the run trains and is tested on.

        Raises:
            TrackingError, UsageError: as `server.check`.
        """
        with server_errors(self.config):
            tags = {**tags_of(self.config), "device": device} | ({"mlflow.parentRunId": parent_id} if parent_id else {})
            self._sender.begin(name or self.run_dir.name, tags, params or {}, data_sets)
            if parent_id is None:
                self._machine = MachineMetrics(tracking_uri(self.config), str(self.run_id))
        self._follow()
        return str(self.run_id)

    def tag(self, key: str, value: str) -> None:
        """Set a tag of the run. The following thread sends it as soon as the server can be reached."""
        self._sender.tags[key] = value

    def finish(
        self,
        status: str,
        artifacts: Sequence[Path] = (),
        summary: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        model: Path | None = None,
    ) -> bool:
        """Send the remaining metrics, the artifacts and the final status.

        Args:
            status: FINISHED, FAILED or KILLED.
            artifacts: files in addition to those that every run directory has.
            summary: metrics of the whole run, with names that metrics.jsonl does not use.
            tags: tags to set at the end.
            model: a checkpoint to upload as an MLflow model.

        Returns:
            Whether all was sent. If False, `sync` sends the rest later.
        """
        paths = [str(path.absolute()) for path in artifacts]
        safe = {key: redact(value) for key, value in (tags or {}).items()}
        end = EndOfRun(status, time.time(), paths, dict(summary or {}), safe, str(model) if model is not None else None)
        return self._send_end(end)

    def keep_model(self, checkpoint: Path) -> bool:
        """Upload and register a checkpoint of a run that has ended. Returns whether MLflow has it."""
        end = self._state.end
        if end is None or self.run_id is None:
            return False
        if end.model == str(checkpoint) and self.complete:
            return True
        return self._send_end(dataclasses.replace(end, model=str(checkpoint)))

    def _send_end(self, end: EndOfRun) -> bool:
        """Wait until all is sent; for a server that cannot be reached not for long."""
        patiently(lambda: self._state.update(end=end, complete=False))
        if self._machine is not None:
            self._machine.finish()
        if self._thread is None or not self._thread.is_alive():
            self._abandoned = False
            self._follow()
        assert self._thread is not None
        self._wake.set()
        ended_s = time.monotonic()
        while self._thread.is_alive() and time.monotonic() < ended_s + (
            LAST_TRY_S if self._unreachable else LONGEST_UPLOAD_S
        ):
            self._thread.join(0.1)
        self._abandoned = True
        return self.complete

    def add(
        self,
        metrics: Mapping[str, float],
        files: Sequence[Path],
        folder: str,
        data_sets: Sequence[DataSet] = (),
        checkpoint: Path | None = None,
    ) -> bool:
        """Like `Sender.add`. On failure, log a warning and return False."""
        try:
            with server_errors(self.config):
                self._sender.add(metrics, files, folder, data_sets, checkpoint)
        except AdviseRayError as error:
            log.warning("the evaluation is not in MLflow: %s; then evaluate again", error)
            return False
        return True

    @classmethod
    def sync(cls, run_dir: Path) -> None:
        """Send the missing metrics, artifacts and status of a run that has ended.

        Raises:
            TrackingError: MLflow still cannot be used.
        """
        tracker = cls(load(run_dir / "config.yaml"), run_dir)
        state = tracker._state
        if state.run_id is None or state.complete:
            return
        if state.end is None:
            state.end = _end_by_result(run_dir)
        try:
            with server_errors(tracker.config):
                tracker._sender.send()
        except UsageError as error:
            raise TrackingError(str(error)) from None

    def _follow(self) -> None:
        """Start the thread that sends."""
        self._thread = threading.Thread(target=self._send_until_end, name="mlflow", daemon=True)
        self._thread.start()

    def _send_until_end(self) -> None:
        wait_s = POLL_S
        while not (self.complete or self._abandoned):
            if self._wake.wait(wait_s):
                self._wake.clear()
                wait_s = POLL_S
            try:
                self._sender.send()
            except Exception as error:  # an MLflow error must never stop the run
                self._report_server(error)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            else:
                self._report_server(None)
                wait_s = POLL_S

    def _report_server(self, error: Exception | None) -> None:
        """Log one warning when MLflow stops to take what is sent, and one when it takes it again."""
        if error is not None and not self._unreachable:
            kind = kind_of(error)
            advice = f"; {kind.advice}" if kind else ""
            log.warning("cannot log to MLflow: %s; the run continues and is logged later%s", reason_of(error), advice)
        if error is None and self._unreachable:
            log.warning("MLflow answers again; what it missed is logged")
        self._unreachable = error is not None


def tracked(config: Config, run_dir: Path) -> tuple[Config, Path]:
    """The configuration and the directory of the MLflow run. For a training of a trial these are the trial's."""
    trial_dir = run_dir.parent
    if (run_dir / "tracking.json").exists() or not (trial_dir / "settings.json").exists():
        return config, run_dir
    return load(trial_dir / "config.yaml"), trial_dir


def _end_by_result(run_dir: Path) -> EndOfRun | None:
    """The end of a run whose driver died after it had written the result, and before `finish`."""
    path = run_dir / "result.json"
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    cards = [str(card) for card in run_dir.glob("*_card.md")]
    model = result.get("best_checkpoint") if result["status"] == "FINISHED" else None
    return EndOfRun(result["status"], path.stat().st_mtime, cards, model=model)

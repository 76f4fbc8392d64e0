"""Copies a run to MLflow: the driver follows the run directory and sends new metrics, tags and artifacts.

The run directory is the source of truth. If the server becomes unreachable, the run continues; the missed lines of
`metrics.jsonl` are sent when the server answers again. Each line has its own step and time, so sending a line twice
changes nothing. `tracking.json` records how much was sent and how the run ended.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advise_ray.config import Config, flatten, load
from advise_ray.storage.atomic import write_whole
from advise_ray.tracking import model_registry
from advise_ray.tracking.server import connect, reason_of, redact, tracking_errors, tracking_uri
from advise_ray.tracking.tags import tags_of

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

log = logging.getLogger("advise_ray")

ARTIFACTS = ("config.yaml", "result.json", "rejects.parquet")
POLL_S = 1.0
LONGEST_WAIT_S = 30.0  # longest wait between two retries while the server is unreachable
LAST_TRY_S = 20.0  # how long the end of a run waits for an unreachable server
LONGEST_UPLOAD_S = 300.0  # how long the end of a run waits for a reachable server, because a model upload is slow
BLOCK_BYTES = 1 << 16  # bytes of metrics.jsonl that are sent between two saves of the offset; longer than any line
ENTITIES_PER_CALL, PARAM_LENGTH = 100, 6000  # MLflow's limits; small enough that a slow server answers in time


class RunTracker:
    """One run in MLflow. Only the driver writes to it. A resumed run directory continues its MLflow run."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        self.config = config
        self.run_dir = run_dir
        self._path = run_dir / "tracking.json"
        self._state: dict[str, Any] = {"run_id": None, "sent_bytes": 0, "end": None, "complete": False}
        if self._path.is_file():
            self._state |= json.loads(self._path.read_text(encoding="utf-8"))
        self._unreachable = self._abandoned = False
        self._tags: dict[str, str] = {}  # tags that are not sent yet
        self._saving = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._monitor: SystemMetricsMonitor | None = None
        self._client: Any = None  # an MlflowClient, once the server has been reached

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None before `start`."""
        return self._state["run_id"]

    @property
    def complete(self) -> bool:
        """Whether the run has ended and MLflow has all of it."""
        return bool(self._state["complete"])

    def start(
        self,
        device: str,
        *,
        name: str | None = None,
        parent_id: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> str:
        """Create the run with its parameters and tags, or set an existing run to running.

        Args:
            name: name of the run. None: the name of the run directory.
            parent_id: MLflow id of the parent run.
            params: parameters in addition to those of the configuration.

        Raises:
            TrackingError: the server or the store cannot be reached.
        """
        with tracking_errors(self.config):
            self._client, experiment_id = connect(self.config)
            known = self._client.search_runs([experiment_id], f"attributes.run_id = '{self.run_id}'")
            run = known[0] if known else self._client.create_run(experiment_id, run_name=name or self.run_dir.name)
            # If the store has lost the run, all of it is sent again from the run directory.
            sent_bytes = self._state["sent_bytes"] if known else 0
            self._save(run_id=run.info.run_id, sent_bytes=sent_bytes, end=None, complete=False)
            self._client.update_run(self.run_id, status="RUNNING")
            tags = {**tags_of(self.config), "device": device} | ({"mlflow.parentRunId": parent_id} if parent_id else {})
            self._log_config(run.data.params, {**flatten(self.config), **(params or {})}, tags)
        if parent_id is None:
            self._watch_machine()
        return str(self.run_id)

    def follow(self, metrics_path: Path) -> None:
        """Start a thread that sends the lines of `metrics_path` as they are written, until `finish`."""

        def run() -> None:
            wait_s = POLL_S
            while not (self._state["complete"] or self._abandoned):
                if self._wake.wait(wait_s):
                    self._wake.clear()
                    wait_s = POLL_S
                try:
                    self._advance(metrics_path)
                except Exception as error:  # an MLflow error must never stop the run
                    self._report_server(error)
                    wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                else:
                    self._report_server(None)
                    wait_s = POLL_S

        self._thread = threading.Thread(target=run, name="mlflow", daemon=True)
        self._thread.start()

    def tag(self, key: str, value: str) -> None:
        """Set a tag of the run. The following thread sends it as soon as the server can be reached."""
        self._tags[key] = value

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
        end = {"status": status, "time_s": time.time(), "artifacts": paths, "values": dict(summary or {})}
        end["model"] = str(model) if model is not None else None
        self._save(end={**end, "tags": {key: redact(value) for key, value in (tags or {}).items()}})
        if self._monitor is not None:
            self._monitor.finish()
        if self._thread is None:
            self.follow(self.run_dir / "metrics.jsonl")
        assert self._thread is not None
        self._wake.set()
        ended_s = time.monotonic()
        while self._thread.is_alive() and time.monotonic() < ended_s + (
            LAST_TRY_S if self._unreachable else LONGEST_UPLOAD_S
        ):
            self._thread.join(0.1)
        self._abandoned = True
        return self.complete

    def add(self, metrics: Mapping[str, float], files: Sequence[Path], folder: str) -> bool:
        """Add metrics and files to a run, which can have ended. On failure, log a warning and return False.

        Args:
            files: files to add to the artifact folder `folder`.
        """
        from mlflow.entities import Metric

        try:
            client, _ = connect(self.config)
            now_ms = int(time.time() * 1000)
            client.log_batch(self.run_id, [Metric(_named(key), value, now_ms, 0) for key, value in metrics.items()])
            for file in files:
                client.log_artifact(self.run_id, str(file), folder)
        except Exception as error:
            log.warning(
                "cannot log the evaluation to MLflow (%s); evaluate again when it is reachable", reason_of(error)
            )
            return False
        return True

    @classmethod
    def sync(cls, run_dir: Path) -> None:
        """Send the missing metrics, artifacts and status of a run that has ended.

        Raises:
            TrackingError: the server is still unreachable.
        """
        tracker = cls(load(run_dir / "config.yaml"), run_dir)
        if tracker.run_id is None or tracker._state["complete"]:
            return
        result = run_dir / "result.json"
        if tracker._state["end"] is None and result.is_file():  # the driver died before it called `finish`
            found = json.loads(result.read_text(encoding="utf-8"))
            cards = [str(path) for path in run_dir.glob("*_card.md")]
            tracker._state["end"] = {
                "status": found["status"],
                "time_s": result.stat().st_mtime,
                "artifacts": cards,
                "values": {},
                "model": found.get("best_checkpoint") if found["status"] == "FINISHED" else None,
            }
        with tracking_errors(tracker.config):
            tracker._advance(run_dir / "metrics.jsonl")

    def _watch_machine(self) -> None:
        """Let MLflow record this machine's CPUs, memory, disk, network and GPUs every 10 s while it is reachable."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        store = tracking_uri(self.config)
        self._monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=store)
        self._monitor.start()

    def _log_config(self, known: Mapping[str, str], config: Mapping[str, Any], tags: dict[str, str]) -> None:
        """Log parameters and tags. MLflow refuses to change a parameter, so a resumed run logs changes as tags."""
        from mlflow.entities import Param, RunTag

        hidden = () if self.config.search else ("search", "tune.")  # used by sweeps only
        values = {key: _text(value) for key, value in config.items() if not key.startswith(hidden)}
        tags |= {f"resumed.{key}": text for key, text in values.items() if known.get(key, text) != text}
        self._log("tags", [RunTag(*tag) for tag in tags.items()])
        self._log("params", [Param(key, text) for key, text in values.items() if key not in known])

    def _advance(self, metrics_path: Path) -> None:
        """Send the complete lines after the offset, block by block, and then the end of the run if it has ended."""
        if self._client is None:  # `start` was interrupted or could not reach the server
            self._client, _ = connect(self.config)
        end = self._state["end"]
        for key in list(self._tags):
            self._client.set_tag(self.run_id, key, self._tags[key])
            self._tags.pop(key)
        while metrics_path.exists() and (text := _whole_lines(metrics_path, self._state["sent_bytes"])):
            self._log_metrics(map(json.loads, text.splitlines()))
            self._save(sent_bytes=self._state["sent_bytes"] + len(text))
        if end is not None:
            self._log_metrics([{**end, "step": 0}])
            for key, value in end.get("tags", {}).items():
                self._client.set_tag(self.run_id, key, value[:PARAM_LENGTH])
            for path in [*(self.run_dir / name for name in ARTIFACTS), *map(Path, end["artifacts"])]:
                if path.is_file():
                    self._client.log_artifact(self.run_id, str(path))
            self._client.set_terminated(self.run_id, end["status"], end_time=int(end["time_s"] * 1000))
            if end.get("model") is not None:
                self._register(Path(end["model"]))
            self._save(complete=True)

    def _register(self, checkpoint: Path) -> None:
        """Upload and register a checkpoint. If only the registration fails, a retry does not upload it again."""
        if self._state.get("model") is None:
            self._save(model=model_registry.upload(self._client, self.config, str(self.run_id), checkpoint))
        if not self._state.get("registered"):
            model_registry.register(self._client, self.config, str(self.run_id), checkpoint, self._state["model"])
            self._save(registered=True)

    def _log_metrics(self, lines: Iterable[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_named(name), value, int(line["time_s"] * 1000), line["step"])
            for line in lines
            for name, value in line["values"].items()
        ]
        self._log("metrics", metrics)

    def _log(self, kind: str, entities: Sequence[Any]) -> None:
        for start in range(0, len(entities), ENTITIES_PER_CALL):
            self._client.log_batch(self.run_id, **{kind: entities[start : start + ENTITIES_PER_CALL]})

    def _report_server(self, error: Exception | None) -> None:
        """Log one warning when the server becomes unreachable, and one when it answers again."""
        if error is not None and not self._unreachable:
            log.warning("MLflow is unreachable (%s); the run continues and will be logged later", reason_of(error))
        if error is None and self._unreachable:
            log.warning("MLflow answers again; the missing metrics are logged")
        self._unreachable = error is not None

    def _save(self, **changes: Any) -> None:
        with self._saving:  # `finish` and the thread can save at the same time
            self._state |= changes
            write_whole(self._path, json.dumps(self._state))


def _whole_lines(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(BLOCK_BYTES)
    return block[: block.rfind(b"\n") + 1]


def _named(metric: str) -> str:
    """Replace characters that MLflow does not allow in a metric's name."""
    return re.sub(r"[^\w/.: -]", "_", metric)


def _text(value: Any) -> str:
    return redact(value if isinstance(value, str) else json.dumps(value))[:PARAM_LENGTH]

"""MLflow, and nothing else that knows it: the driver follows the run directory and sends on what is new.

The run directory is the truth. A server that goes away costs the run nothing: what it missed in `metrics.jsonl` is
sent when it is back, each line with its own step and time, so that a line sent twice changes nothing.
`tracking.json` holds how far it came and how the run ended.
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
from advise_ray.tracking.server import connect, reason_of, redact, told, tracking_uri
from advise_ray.tracking.tags import tags_of

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

log = logging.getLogger("advise_ray")

ARTIFACTS = ("config.yaml", "result.json", "rejects.parquet")
POLL_S = 1.0
LONGEST_WAIT_S = 30.0  # between two tries of a server that is away
LAST_TRY_S = 20.0  # how long the end of a run waits for it
LONGEST_UPLOAD_S = 300.0  # the same, while it is there and takes what is sent: the model may take a while
BLOCK_BYTES = 1 << 16  # of metrics.jsonl, between two notes of how far it is sent; longer than any line
ENTITIES_PER_CALL, PARAM_LENGTH = 100, 6000  # MLflow's limits; and what a slow server takes in time


class RunTracker:
    """One run in MLflow, written by the driver alone; a run directory that has one goes on with it."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        self.config = config
        self.run_dir = run_dir
        self._path = run_dir / "tracking.json"
        self._state: dict[str, Any] = {"run_id": None, "sent_bytes": 0, "end": None, "complete": False}
        if self._path.is_file():
            self._state |= json.loads(self._path.read_text())
        self._away = self._abandoned = False
        self._tags: dict[str, str] = {}  # that MLflow is to get
        self._saving = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._monitor: SystemMetricsMonitor | None = None
        self._client: Any = None  # an MlflowClient, as soon as the server was reached

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, from `start` on."""
        return self._state["run_id"]

    @property
    def complete(self) -> bool:
        """Whether MLflow has all of a run that has ended."""
        return bool(self._state["complete"])

    def start(
        self,
        device: str,
        *,
        name: str | None = None,
        parent_id: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> str:
        """Create the run, or set it running again, with its parameters and tags.

        Args:
            name: unset, the run directory's.
            parent_id: of the run that this one belongs to.
            params: beside those of the configuration.

        Raises:
            TrackingError: the server or the store cannot be reached.
        """
        with told(self.config):
            self._client, experiment_id = connect(self.config)
            known = self._client.search_runs([experiment_id], f"attributes.run_id = '{self.run_id}'")
            run = known[0] if known else self._client.create_run(experiment_id, run_name=name or self.run_dir.name)
            # A run that is gone from the store is sent anew: the run directory has all of it.
            sent_bytes = self._state["sent_bytes"] if known else 0
            self._save(run_id=run.info.run_id, sent_bytes=sent_bytes, end=None, complete=False)
            self._client.update_run(self.run_id, status="RUNNING")
            tags = {**tags_of(self.config), "device": device} | ({"mlflow.parentRunId": parent_id} if parent_id else {})
            self._log_config(run.data.params, {**flatten(self.config), **(params or {})}, tags)
        if parent_id is None:
            self._watch_machine()
        return str(self.run_id)

    def follow(self, metrics_path: Path) -> None:
        """Send the lines of `metrics_path` as they come, from a thread, until `finish`."""

        def run() -> None:
            wait_s = POLL_S
            while not (self._state["complete"] or self._abandoned):
                if self._wake.wait(wait_s):
                    self._wake.clear()
                    wait_s = POLL_S
                try:
                    self._advance(metrics_path)
                except Exception as error:  # nothing that MLflow does may stop the run
                    self._heard(error)
                    wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                else:
                    self._heard(None)
                    wait_s = POLL_S

        self._thread = threading.Thread(target=run, name="mlflow", daemon=True)
        self._thread.start()

    def tag(self, key: str, value: str) -> None:
        """Set a tag of the run, by the thread that follows it: as soon as the server can be reached."""
        self._tags[key] = value

    def finish(
        self,
        status: str,
        artifacts: Sequence[Path] = (),
        summary: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        model: Path | None = None,
    ) -> bool:
        """Send the rest, the artifacts and the final status; False where some of it is left to `sync`.

        Args:
            status: FINISHED, FAILED or KILLED.
            artifacts: files beside those that every run directory has.
            summary: metrics of the run as a whole, under names that metrics.jsonl does not use.
            tags: what else is known of it at its end.
            model: a checkpoint to be kept as an MLflow model.
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
        while self._thread.is_alive() and time.monotonic() < ended_s + (LAST_TRY_S if self._away else LONGEST_UPLOAD_S):
            self._thread.join(0.1)
        self._abandoned = True
        return self.complete

    def add(self, metrics: Mapping[str, float], files: Sequence[Path], folder: str) -> bool:
        """Add to a run, ended or not, what was found out about it; False, and a warning, where that cannot be.

        Args:
            files: they go into `folder` among its artifacts.
        """
        from mlflow.entities import Metric

        try:
            client, _ = connect(self.config)
            now_ms = int(time.time() * 1000)
            client.log_batch(self.run_id, [Metric(_named(key), value, now_ms, 0) for key, value in metrics.items()])
            for file in files:
                client.log_artifact(self.run_id, str(file), folder)
        except Exception as error:
            log.warning("MLflow has not got the evaluation (%s); evaluate again when it is there", reason_of(error))
            return False
        return True

    @classmethod
    def sync(cls, run_dir: Path) -> None:
        """Send what MLflow has missed of a run that has ended: metrics, artifacts, status.

        Raises:
            TrackingError: the server is still away.
        """
        tracker = cls(load(run_dir / "config.yaml"), run_dir)
        if tracker.run_id is None or tracker._state["complete"]:
            return
        result = run_dir / "result.json"
        if tracker._state["end"] is None and result.is_file():  # the driver died before it could call `finish`
            found = json.loads(result.read_text())
            cards = [str(path) for path in run_dir.glob("*_card.md")]
            tracker._state["end"] = {
                "status": found["status"],
                "time_s": result.stat().st_mtime,
                "artifacts": cards,
                "values": {},
                "model": found.get("best_checkpoint") if found["status"] == "FINISHED" else None,
            }
        with told(tracker.config):
            tracker._advance(run_dir / "metrics.jsonl")

    def _watch_machine(self) -> None:
        """MLflow's own record of this machine's CPUs, memory, disk, network and GPUs, every 10 s, until it is away."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        store = tracking_uri(self.config)
        self._monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=store)
        self._monitor.start()

    def _log_config(self, known: Mapping[str, str], config: Mapping[str, Any], tags: dict[str, str]) -> None:
        """MLflow refuses to change a parameter: those of a resumed run stay, and what changed becomes a tag."""
        from mlflow.entities import Param, RunTag

        hidden = () if self.config.search else ("search", "tune.")  # of a sweep alone
        values = {key: _text(value) for key, value in config.items() if not key.startswith(hidden)}
        tags |= {f"resumed.{key}": text for key, text in values.items() if known.get(key, text) != text}
        self._log("tags", [RunTag(*tag) for tag in tags.items()])
        self._log("params", [Param(key, text) for key, text in values.items() if key not in known])

    def _advance(self, metrics_path: Path) -> None:
        """Send the whole lines behind the offset, block by block, and the end of a run that has ended before that."""
        if self._client is None:  # the run was interrupted, or its server away, before `start` had it
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
        """Where the registry refuses it, what is uploaded is not uploaded again."""
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

    def _heard(self, error: Exception | None) -> None:
        """One line when the server goes, one when it is back."""
        if error is not None and not self._away:
            log.warning("MLflow is away (%s); the run goes on, and is logged when it is back", reason_of(error))
        if error is None and self._away:
            log.warning("MLflow is back; what it missed is logged")
        self._away = error is not None

    def _save(self, **changes: Any) -> None:
        with self._saving:  # `finish` and the thread may do so at once
            self._state |= changes
            write_whole(self._path, json.dumps(self._state))


def _whole_lines(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(BLOCK_BYTES)
    return block[: block.rfind(b"\n") + 1]


def _named(metric: str) -> str:
    """In letters that MLflow takes."""
    return re.sub(r"[^\w/.: -]", "_", metric)


def _text(value: Any) -> str:
    return redact(value if isinstance(value, str) else json.dumps(value))[:PARAM_LENGTH]

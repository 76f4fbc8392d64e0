"""MLflow, and nothing else that knows it: the driver follows the run directory and sends on what is new.

The run directory is the truth. `metrics.jsonl` is followed from a thread; a server that goes away costs the run
nothing: what it missed is sent when it is back, each line with its own step and time, so that sending a line twice
changes nothing.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock

from advise_ray.config import Config, flatten, load
from advise_ray.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("advise_ray")

ARTIFACTS = ("config.yaml", "result.json", "rejects.parquet")
POLL_S = 1.0
RETRY_S = 5.0
LAST_TRY_S = 20.0
"""How long the end of a run waits for a server that is away."""
VERSIONS_OF = ("advise-ray", "torch", "ray", "mlflow", "timm", "open_clip_torch", "decord2", "av")
PARAMS_PER_CALL, METRICS_PER_CALL = 100, 1000  # MLflow's own limits


def tracking_uri(config: Config) -> str:
    """The configured server or store; else the SQLite store in `storage.path`, which is made on first use."""
    return config.tracking.uri or f"sqlite:///{Path(config.storage.path) / 'mlflow.db'}"


def ui_command(config: Config) -> str:
    """The line that opens the MLflow UI on this store, for this machine only."""
    uri = tracking_uri(config)
    if uri.startswith("http"):
        return f"open {uri}"
    return f"mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri {uri}"


class RunTracker:
    """One run in MLflow, written by the driver alone.

    Attributes:
        run_id: MLflow's id, from `start` on.
    """

    def __init__(self, config: Config, run_dir: Path) -> None:
        self.config = config
        self.run_dir = run_dir
        self.uri = tracking_uri(config)
        self.run_id: str | None = None
        self._offset = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        state = self._state_path
        if state.is_file():
            known = json.loads(state.read_text())
            self.run_id, self._offset = known["run_id"], known["sent_bytes"]

    @property
    def _state_path(self) -> Path:
        return self.run_dir / "tracking.json"

    def start(self, device: str) -> str:
        """Create the run, or set it running again, with its parameters and tags.

        Raises:
            TrackingError: the server or the store cannot be reached.
        """
        try:
            self._client = connect(self.config)
            self.run_id = self.run_id or self._create_run()
            self._client.update_run(self.run_id, status="RUNNING")
            self._log_params(self.run_id)
            for name, value in {**_tags(), "device": device}.items():
                self._client.set_tag(self.run_id, name, value)
        except Exception as error:  # MLflow, SQLAlchemy and requests each raise their own kinds
            raise _unreachable(self.uri, error) from None
        self._save_state()
        return self.run_id

    def follow(self, metrics_path: Path) -> None:
        """Send the lines of `metrics_path` as they come, from a thread, until `finish`."""

        def run() -> None:
            reachable = True
            while not self._stop.wait(POLL_S if reachable else RETRY_S):
                try:
                    self._send(metrics_path)
                except Exception as error:
                    if reachable:
                        log.warning("MLflow is away (%s); the run goes on and is logged when it is back", _line(error))
                    reachable = False
                else:
                    if not reachable:
                        log.warning("MLflow is back; what it missed is logged")
                    reachable = True

        self._thread = threading.Thread(target=run, name="mlflow", daemon=True)
        self._thread.start()

    def finish(self, status: str) -> bool:
        """Send the rest, the artifacts and the final status; False where the server stayed away.

        Args:
            status: FINISHED, FAILED or KILLED.
        """
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
        deadline_s = time.monotonic() + LAST_TRY_S
        while True:
            try:
                self._complete(status)
            except Exception as error:
                if time.monotonic() > deadline_s:
                    log.warning("MLflow stayed away (%s)", _line(error))
                    return False
                time.sleep(1)
            else:
                return True

    @classmethod
    def sync(cls, run_dir: Path) -> None:
        """Send what an ended run's server has missed.

        Raises:
            TrackingError: it is still away.
        """
        tracker = cls(load(run_dir / "config.yaml"), run_dir)
        if json.loads(tracker._state_path.read_text()).get("complete"):
            return
        try:
            tracker._client = connect(tracker.config)
            tracker._complete(json.loads((run_dir / "result.json").read_text())["status"])
        except Exception as error:
            raise _unreachable(tracker.uri, error) from None

    def _complete(self, status: str) -> None:
        self._send(self.run_dir / "metrics.jsonl")
        for name in ARTIFACTS:
            if (self.run_dir / name).is_file():
                self._client.log_artifact(self.run_id, str(self.run_dir / name))
        self._client.set_terminated(self.run_id, status)
        self._save_state(complete=True)

    def _create_run(self) -> str:
        experiment = self._client.get_experiment_by_name(self.config.tracking.experiment)
        run = self._client.create_run(experiment.experiment_id, run_name=self.run_dir.name)
        return str(run.info.run_id)

    def _log_params(self, run_id: str) -> None:
        """Those that are not there yet: MLflow refuses to change a parameter, so a resumed run keeps its own."""
        from mlflow.entities import Param

        known = self._client.get_run(run_id).data.params
        params = [Param(key, _param(value)) for key, value in flatten(self.config).items() if key not in known]
        for start in range(0, len(params), PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=params[start : start + PARAMS_PER_CALL])

    def _send(self, path: Path) -> None:
        """Send the whole lines behind the offset; a line that is still being written waits."""
        from mlflow.entities import Metric

        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._offset)
            text, newline, _ = file.read().rpartition(b"\n")
        metrics = [
            Metric(name, value, int(line["time_s"] * 1000), line["step"])
            for line in map(json.loads, text.splitlines())
            for name, value in line["values"].items()
        ]
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_PER_CALL])
        if newline:
            self._offset += len(text) + len(newline)
            self._save_state()

    def _save_state(self, *, complete: bool = False) -> None:
        partial = self._state_path.with_suffix(".partial")
        partial.write_text(json.dumps({"run_id": self.run_id, "sent_bytes": self._offset, "complete": complete}))
        partial.replace(self._state_path)


def check(config: Config) -> None:
    """Raise TrackingError unless the server or the store answers; an unmade SQLite store is left unmade."""
    uri = tracking_uri(config)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return
    try:
        connect(config)
    except Exception as error:
        raise _unreachable(uri, error) from None


def connect(config: Config) -> MlflowClient:
    """A client whose store and experiment exist.

    The first touch of a SQLite store creates its tables, and two processes that do so at once break each other
    (measured on mlflow 3.17; also nrc-cnrc/hydraflow#245): a lock keeps them apart.
    """
    # A server that is away must be known to be away within seconds; MLflow's default is minutes of retries.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.ERROR)
    uri, storage = tracking_uri(config), Path(config.storage.path)
    if uri.startswith("http"):
        return _with_experiment(MlflowClient(uri), config, None)
    storage.mkdir(parents=True, exist_ok=True)
    with FileLock(storage / ".mlflow.lock"):
        return _with_experiment(MlflowClient(uri), config, (storage / "mlflow-artifacts").as_uri())


def _with_experiment(client: MlflowClient, config: Config, artifacts: str | None) -> MlflowClient:
    name = config.tracking.experiment
    if client.get_experiment_by_name(name) is None:
        client.create_experiment(name, artifact_location=f"{artifacts}/{name}" if artifacts else None)
    return client


def _tags() -> dict[str, str]:
    tags = {f"version.{name}": importlib.metadata.version(name) for name in VERSIONS_OF}
    tags["version.python"] = platform.python_version()
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain"))).lower()
    return tags


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _param(value: Any) -> str:
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]


def _unreachable(uri: str, error: Exception) -> TrackingError:
    return TrackingError(
        f"tracking.uri: cannot log to {uri}: {_line(error)}; start the server, or leave tracking.uri unset to log into "
        "storage.path"
    )


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]

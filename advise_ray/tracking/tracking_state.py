"""`tracking.json` of a run: what MLflow has received so far, and how the run ended. Only the driver writes it."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from advise_ray.storage.atomic import exists, write_once
from advise_ray.tracking.data_sets import DataSet

log = logging.getLogger("advise_ray")


@dataclass(frozen=True)
class EndOfRun:
    """How a run ended.

    Attributes:
        status: FINISHED, FAILED or KILLED.
        time_s: Unix time.
        artifacts: paths of files in addition to those that every run directory has.
        values: metrics of the whole run.
        tags: tags that are set at the end.
        model: path of a checkpoint to upload as an MLflow model.
    """

    status: str
    time_s: float
    artifacts: list[str] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    model: str | None = None


@dataclass
class TrackingState:
    """The content of `tracking.json`.

    Attributes:
        run_dir: directory of the run.
        run_id: MLflow's id of the run; None before its start.
        sent_bytes: how much of `metrics.jsonl` was sent.
        end: None while the run goes on.
        complete: whether the run has ended and MLflow has all of it.
        model: URI of the uploaded model, `models:/…`.
        registered: whether the model registry has this model.
        experiment_id: MLflow's id of the experiment; None before the start of the run.
        data_sets: the data sets of the run.
        data_sent: whether MLflow has them.
        view: key of the view that the links of the run open, see `View`; None if MLflow does not have it.
    """

    run_dir: Path
    run_id: str | None = None
    sent_bytes: int = 0
    end: EndOfRun | None = None
    complete: bool = False
    model: str | None = None
    registered: bool = False
    experiment_id: str | None = None
    data_sets: list[DataSet] = field(default_factory=list)
    data_sent: bool = False
    view: str | None = None

    def __post_init__(self) -> None:
        self._saving = threading.Lock()

    @classmethod
    def read(cls, run_dir: Path) -> TrackingState:
        """Read the state of a run. A run without the file has not started. A damaged file is reported and ignored.

        Raises:
            OSError: the run directory does not exist, or the file cannot be read.
        """
        path = run_dir / "tracking.json"
        if not exists(path):
            return cls(run_dir)
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            log.warning("%s is damaged; the run is logged as a new MLflow run", path)
            return cls(run_dir)
        if _is_copy(run_dir, found):
            log.warning("note: %s is a copy of %s and is logged as an MLflow run of its own", run_dir, found["run_dir"])
            return cls(run_dir)
        end = found.pop("end", None)
        found.pop("run_dir", None)
        known = {key: value for key, value in found.items() if key in {each.name for each in fields(cls)}}
        return cls(run_dir, **known, end=EndOfRun(**end) if end is not None else None)

    def update(self, **changes: Any) -> None:
        """Change attributes and write the file, in one attempt. The attributes change also if that fails.

        Raises:
            OSError: the file cannot be written. The caller tries again.
        """
        with self._saving:  # the driver and its sending thread can write at the same time
            for name, value in changes.items():
                setattr(self, name, value)
            content = asdict(self) | {"run_dir": str(self.run_dir.absolute())}
            write_once(self.run_dir / "tracking.json", json.dumps(content))


def _is_copy(run_dir: Path, found: dict[str, Any]) -> bool:
    """Whether the directory was copied (`cp -r`), not moved: its original, to which MLflow's run belongs, is there."""
    original = Path(found.get("run_dir") or run_dir)
    try:
        held = json.loads((original / "tracking.json").read_text(encoding="utf-8"))
        return bool(held["run_id"] == found.get("run_id") and not original.samefile(run_dir))
    except (OSError, ValueError, KeyError):
        return False

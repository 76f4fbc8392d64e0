"""Sends what a run's directory holds to its MLflow run: metrics, tags, data sets, artifacts, its end, its model.

Each line of `metrics.jsonl` has its own step and time, so sending a line twice changes nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from advise_ray.config import Config, flatten, load
from advise_ray.storage.atomic import exists
from advise_ray.storage.jsonl import read_lines
from advise_ray.storage.retry import patiently
from advise_ray.tracking import model_registry
from advise_ray.tracking.address import redact
from advise_ray.tracking.data_sets import DataSet, as_inputs
from advise_ray.tracking.isolation import isolated
from advise_ray.tracking.server import connect
from advise_ray.tracking.tracking_state import EndOfRun, TrackingState
from advise_ray.tracking.views import named, view_of

ARTIFACTS = ("config.yaml", "result.json", "rejects.parquet")
BLOCK_BYTES = 1 << 16  # bytes of metrics.jsonl that are sent between two saves of the offset; longer than any line
ENTITIES_PER_CALL, PARAM_LENGTH = 100, 6000  # MLflow's limits; small enough that a slow server answers in time


class Sender:
    """Sends to one MLflow run. `state` says what MLflow has already.

    All methods raise the errors of MLflow, SQLAlchemy and requests, and TrackingError and UsageError of `connect`.
    """

    def __init__(self, config: Config, state: TrackingState) -> None:
        self.config, self.state = config, state
        self.tags: dict[str, str] = {}
        """Tags that are not sent yet."""
        self._client: Any = None  # an MlflowClient, once the server has been reached

    def begin(
        self, name: str, tags: dict[str, str], params: Mapping[str, Any], data_sets: Sequence[DataSet] = ()
    ) -> None:
        """Create the MLflow run with its parameters and tags, or set the existing one to running.

        If the store has lost the run, all of it is sent again from the run's directory.

        Args:
            params: parameters in addition to those of the configuration.
            data_sets: what the run uses. `send` sends it, unless MLflow has it from an earlier start of the run.
        """
        self._client, experiment_id = connect(self.config)
        with isolated():
            known = self._client.search_runs([experiment_id], f"attributes.run_id = '{self.state.run_id}'")
            run = known[0] if known else self._client.create_run(experiment_id, run_name=name)
            if not known:
                self.state.update(sent_bytes=0, data_sent=False, view=None)
            if not self.state.data_sent:
                self.state.update(data_sets=list(data_sets))
            # A run that continues can have another best checkpoint at its end.
            again = {"end": None, "complete": False, "model": None, "registered": False}
            self.state.update(run_id=run.info.run_id, experiment_id=experiment_id, **again)
            self._client.update_run(self.state.run_id, status="RUNNING")
            self._log_config(run.data.params, {**flatten(self.config), **params}, tags)

    def send(self) -> None:
        """Send tags, the complete lines after the offset block by block, and the end of the run if it has ended."""
        if self._client is None:  # `begin` was interrupted or could not reach the server
            self._reconnect()
        end, metrics_path = self.state.end, self.state.run_dir / "metrics.jsonl"
        with isolated():
            for key in list(self.tags):
                self._client.set_tag(self.state.run_id, key, value := self.tags[key])
                if self.tags[key] == value:  # else `tag` has set a new one in the meantime
                    self.tags.pop(key)
            while exists(metrics_path) and (text := _whole_lines(metrics_path, self.state.sent_bytes)):
                self._log_metrics(map(json.loads, text.splitlines()))
                self.state.update(sent_bytes=self.state.sent_bytes + len(text))
            self._send_data_and_view()
            if end is not None:
                self._send_end(end)
                patiently(lambda: self.state.update(complete=True))  # the last write: nobody sends after it

    def add(
        self,
        metrics: Mapping[str, float],
        files: Sequence[Path],
        folder: str,
        data_sets: Sequence[DataSet] = (),
        checkpoint: Path | None = None,
    ) -> None:
        """Add metrics, files and data sets to a run, which can have ended.

        Args:
            files: files to add to the artifact folder `folder`.
            data_sets: what the metrics were measured on.
            checkpoint: what was measured. If it is the model of the run, the metrics are also those of the model.
        """
        self._reconnect()
        end = self.state.end
        of_model = end is not None and end.model is not None and end.model == str(checkpoint)
        with isolated():
            if data_sets:
                self._client.log_inputs(self.state.run_id, as_inputs(data_sets))
            line = {"time_s": time.time(), "step": 0, "values": metrics}
            self._log_metrics([line])
            if of_model:
                self._log_model_metrics([(line, next(iter(data_sets), None))])
            for file in files:
                self._client.log_artifact(self.state.run_id, str(file), folder)

    def _reconnect(self) -> None:
        """Reach the server for a run that `begin` or an earlier version of this package has begun."""
        self._client, _ = connect(self.config)
        if self.state.experiment_id is None:
            with isolated():
                self.state.update(experiment_id=self._client.get_run(self.state.run_id).info.experiment_id)

    def _send_data_and_view(self) -> None:
        """Send the data sets once, and the view that links to the run need, unless the experiment has it."""
        if not self.state.data_sent:
            if self.state.data_sets:
                self._client.log_inputs(self.state.run_id, as_inputs(self.state.data_sets))
            self.state.update(data_sent=True)
        view = view_of(self.config, self.state.run_dir.name, str(self.state.run_id))
        if self.state.view != view.key:
            key, value = view.tag
            if key not in self._client.get_experiment(self.state.experiment_id).tags:
                self._client.set_experiment_tag(self.state.experiment_id, key, value)
            self.state.update(view=view.key)

    def _send_end(self, end: EndOfRun) -> None:
        self._log_metrics([{"time_s": end.time_s, "step": 0, "values": end.values}])
        for key, value in end.tags.items():
            self._client.set_tag(self.state.run_id, key, value[:PARAM_LENGTH])
        for path in [*(self.state.run_dir / name for name in ARTIFACTS), *map(Path, end.artifacts)]:
            # Storage that does not answer must not look like a run without this file.
            if exists(path) if path.parent == self.state.run_dir else path.is_file():
                self._client.log_artifact(self.state.run_id, str(path))
        self._client.set_terminated(self.state.run_id, end.status, end_time=int(end.time_s * 1000))
        if end.model is not None:
            self._register(end, Path(end.model))

    def _register(self, end: EndOfRun, checkpoint: Path) -> None:
        """Upload and register a checkpoint. If only the registration fails, a retry does not upload it again."""
        state = self.state
        # The model of a trial is that of one of its trainings, with another task than the trial.
        config = load(checkpoint / "config.yaml").model_copy(update={"tracking": self.config.tracking})
        if state.model is None:
            state.update(model=model_registry.upload(self._client, config, str(state.run_id), checkpoint))
        if not state.registered:
            self._log_model_metrics(self._measured(end, checkpoint))
            model_registry.register(self._client, config, str(state.run_id), checkpoint, str(state.model))
            state.update(registered=True)

    def _measured(self, end: EndOfRun, checkpoint: Path) -> Iterator[tuple[dict[str, Any], DataSet | None]]:
        """Lines of metrics of the model with their data sets: those of its last epoch, and those of the whole run."""
        training_dir = checkpoint.parents[1]
        prefix = "" if training_dir.name in (self.state.run_dir.name, "pretrain") else f"{training_dir.name}/"
        used: dict[str, DataSet] = {each["context"]: each for each in self.state.data_sets}
        step = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["step"]
        for line in read_lines(training_dir / "metrics.jsonl"):
            for start, context in (("val/", "validation"), ("train/epoch_", "training")):
                values = {prefix + key: value for key, value in line["values"].items() if key.startswith(start)}
                if line["step"] == step and values:
                    yield {**line, "values": values}, used.get(context)
        yield {"time_s": end.time_s, "step": 0, "values": end.values}, used.get("test")

    def _log_config(self, known: Mapping[str, str], config: Mapping[str, Any], tags: dict[str, str]) -> None:
        """Log parameters and tags. MLflow refuses to change a parameter, so a resumed run logs changes as tags."""
        from mlflow.entities import Param, RunTag

        hidden = () if self.config.search else ("search", "tune.")  # used by sweeps only
        values = {key: _text(value) for key, value in config.items() if not key.startswith(hidden)}
        tags |= {f"resumed.{key}": text for key, text in values.items() if known.get(key, text) != text}
        self._log("tags", [RunTag(*tag) for tag in tags.items()])
        self._log("params", [Param(key, text) for key, text in values.items() if key not in known])

    def _log_metrics(self, lines: Iterable[dict[str, Any]], **of_model: Any) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(named(name), value, int(line["time_s"] * 1000), line["step"], **of_model)
            for line in lines
            for name, value in line["values"].items()
        ]
        self._log("metrics", metrics)

    def _log_model_metrics(self, lines: Iterable[tuple[dict[str, Any], DataSet | None]]) -> None:
        """Log metrics of the run again, as metrics of its model on a data set. The run keeps equal ones once."""
        for line, used in lines:
            finite = {name: value for name, value in line["values"].items() if math.isfinite(value)}
            data = {"dataset_name": used["name"], "dataset_digest": used["digest"]} if used else {}
            model_id = str(self.state.model).removeprefix("models:/")
            self._log_metrics([{**line, "values": finite}], model_id=model_id, **data)

    def _log(self, kind: str, entities: Sequence[Any]) -> None:
        for start in range(0, len(entities), ENTITIES_PER_CALL):
            self._client.log_batch(self.state.run_id, **{kind: entities[start : start + ENTITIES_PER_CALL]})


def _whole_lines(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(BLOCK_BYTES)
    return block[: block.rfind(b"\n") + 1]


def _text(value: Any) -> str:
    return redact(value if isinstance(value, str) else json.dumps(value))[:PARAM_LENGTH]

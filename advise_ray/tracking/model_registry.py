"""MLflow's model registry: uploads checkpoints as models that MLflow can serve, and downloads them."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advise_ray.backend import packages
from advise_ray.config import Config, load
from advise_ray.errors import TrackingError
from advise_ray.tracking.address import redact, sqlite_file, tracking_uri
from advise_ray.tracking.isolation import isolated
from advise_ray.tracking.server_errors import kind_of, reason_of
from advise_ray.video.synth import synthesize

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("advise_ray")

METRIC = "val/top1"
"""The model version with the highest value of this metric gets the alias `best`."""
CLASSES_LENGTH = 5000  # MLflow limits the length of tags
PACKAGE = Path(__file__).parents[1]
SERVED = (
    "av",
    "decord2",
    "mlflow",
    "numpy",
    "open_clip_torch",
    "packaging",
    "pandas",
    "pydantic",
    "pyyaml",
    "safetensors",
    "timm",
    "torch",
    "torchvision",
)
"""Packages that a logged model needs for loading. The logged model contains a copy of advise_ray itself."""


def model_name(config: Config) -> str:
    """Name of the registered model. All models of one experiment and task are versions of it."""
    return re.sub(r"[/:]", "-", f"{config.tracking.experiment}-{config.task}")


def upload(client: MlflowClient, config: Config, run_id: str, checkpoint: Path) -> str:
    """Log a checkpoint as a model of a run (models from code, `deploy/serve.py`) and return its `models:/` URI.

    The model contains this package's code. A requirement `advise-ray` could install another package of that name from
    an index. The run can have ended: its status does not change. `mlflow.pyfunc.log_model` would set it to running, and
    takes the server and the experiment from settings of the whole process.
    """
    import mlflow
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run = client.get_run(run_id)
    tags = {key: value for key, value in run.data.tags.items() if key.startswith(("mlflow.user", "mlflow.source."))}
    logged = client.create_logged_model(run.info.experiment_id, "model", run_id, tags, run.data.params)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / checkpoint.name
        shutil.copytree(checkpoint, bare, ignore=shutil.ignore_patterns("optimizer.pt"))
        mlflow.pyfunc.save_model(
            Path(folder) / "model",
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                run_id=run_id,
                model_uuid=logged.model_id,
                model_id=logged.model_id,
            ),
            python_model=str(PACKAGE / "deploy" / "serve.py"),
            code_paths=[str(PACKAGE)],
            artifacts={"checkpoint": str(bare)},
            pip_requirements=_requirements(config),
            **_interface(),
        )
        for cache in (Path(folder) / "model").rglob("__pycache__"):
            shutil.rmtree(cache)
        client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
    client.finalize_logged_model(logged.model_id, "READY")
    return f"models:/{logged.model_id}"


def _interface() -> dict[str, Any]:
    """What the served model takes and returns: a signature, and a video as an example."""
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    answer = [ColSpec("string", "class"), ColSpec("double", "probability"), ColSpec("string", "error")]
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder), 1, seed=0)
        (video,) = Path(folder).rglob("*.mp4")
        example = pd.DataFrame({"video": [video.read_bytes()]})
    signature = ModelSignature(Schema([ColSpec("binary", "video")]), Schema(answer))
    return {"signature": signature, "input_example": example}


def _requirements(config: Config) -> list[str]:
    """Requirements: needed packages at their installed versions, and the package of the image model's weights."""
    weights = config.model.ifm.weights or ""
    carried = [weights.removeprefix("package:")] if weights.startswith("package:") else []
    return [f"{name}=={packages.release(name)}" for name in (*SERVED, *carried)]


def register(client: MlflowClient, config: Config, run_id: str, checkpoint: Path, uri: str) -> None:
    """Register an uploaded model as a version of `model_name`, and give it the alias `best` if it is the best version.

    Only versions that were validated alike are compared. Otherwise the alias stays, and a warning says so.
    """
    from mlflow.exceptions import MlflowException

    name = model_name(config)
    with contextlib.suppress(MlflowException):  # the registered model exists already
        client.create_registered_model(name)
    tags = _validated(config, json.loads((checkpoint / "state.json").read_text(encoding="utf-8")))
    model = client.get_logged_model(uri.removeprefix("models:/"))
    # MLflow would look up a `models:/` URI at the server that is set for the whole process.
    source = model.artifact_location
    version = client.create_model_version(name, source, run_id, tags=tags, model_id=model.model_id).version
    versions = json.dumps([{"name": name, "version": str(version)}])
    client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": versions})  # its page names its version
    try:
        best = client.get_model_version_by_alias(name, "best")
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        best = None  # no version has the alias
    differing = [key for key in tags if best is not None and key != METRIC and best.tags.get(key) != tags[key]]
    if METRIC not in tags:
        log.warning("MLflow model %s: version %s has no %s, so it cannot get the alias `best`", name, version, METRIC)
    elif best is not None and (differing or METRIC not in best.tags):
        log.warning(
            "MLflow model %s: the alias `best` stays at version %s, because its %s cannot be compared with that of "
            "version %s (different %s); move the alias in the MLflow UI if you like, or name another "
            "tracking.experiment",
            *(name, best.version, METRIC, version, ", ".join(differing) or METRIC),
        )
    elif best is None or float(tags[METRIC]) >= float(best.tags[METRIC]):
        client.set_registered_model_alias(name, "best", version)


def _validated(config: Config, state: dict[str, Any]) -> dict[str, str]:
    """Tags of a version: METRIC, if the run was validated, and the circumstances in which it can be compared.

    Args:
        state: the content of the checkpoint's `state.json`.
    """
    tags = {
        "task": config.task,
        "manifest_sha256": state["manifest_sha256"],
        "classes": ", ".join(state["classes"])[:CLASSES_LENGTH],
        "data.val_split": str(config.data.val_split),
        "data.val_fraction": f"{config.data.val_fraction:g}",
    }
    score = state["metrics"].get(METRIC, math.nan)
    return tags if math.isnan(score) else {METRIC: f"{score:.6g}", **tags}


def fetch(uri: str) -> Path:
    """Download a model's checkpoint by `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/ID/model`.

    The model is looked up at MLFLOW_TRACKING_URI; if this is unset, in the store of the folder `runs`.

    Raises:
        TrackingError: the model does not exist, or the server does not answer.
    """
    store = tracking_uri(load())
    db = sqlite_file(store)
    if db is not None and not db.is_file():
        raise TrackingError(f"{uri}: there is no MLflow store {db}; set MLFLOW_TRACKING_URI, or change to its folder")
    try:
        with isolated(MLFLOW_TRACKING_URI=store):
            import mlflow

            folder = Path(mlflow.artifacts.download_artifacts(uri))
    except Exception as error:  # MLflow, SQLAlchemy and requests raise unrelated types
        kind = kind_of(error)
        advice = kind.advice if kind else "correct the name, or MLFLOW_TRACKING_URI"
        raise TrackingError(
            f"{uri}: cannot download this model from {redact(store)} ({reason_of(error)}); {advice}"
        ) from None
    found = sorted(folder.rglob("model.safetensors"))
    if not found:
        raise TrackingError(f"{uri}: this is not a model of advise-ray (it has no model.safetensors)")
    return found[0].parent

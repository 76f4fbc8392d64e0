"""MLflow's model registry: uploads checkpoints as models that MLflow can serve, and downloads them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from advise_ray.backend import packages
from advise_ray.config import Config
from advise_ray.errors import TrackingError
from advise_ray.tracking.server import reason_of, tracking_uri
from advise_ray.video.synth import synthesize

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRIC = "val/top1"
"""The model version with the highest value of this metric gets the alias `best`."""
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
    an index. The run can have ended: its status does not change (`mlflow.pyfunc.log_model` would set it to running).
    """
    import mlflow
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    mlflow.set_tracking_uri(tracking_uri(config))
    # MLflow stores a model in the active experiment, which is "Default" with files in ./mlruns, not in the run's.
    mlflow.set_experiment(experiment_id=client.get_run(run_id).info.experiment_id)
    answer = [ColSpec("string", "class"), ColSpec("double", "probability"), ColSpec("string", "error")]
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder), 1, seed=0)
        (video,) = Path(folder).rglob("*.mp4")
        bare = Path(folder) / checkpoint.name
        shutil.copytree(checkpoint, bare, ignore=shutil.ignore_patterns("optimizer.pt"))
        logged = Model.log(
            artifact_path=None,
            name="model",
            flavor=SimpleNamespace(save_model=_save),
            run_id=run_id,
            python_model=str(PACKAGE / "deploy" / "serve.py"),
            code_paths=[str(PACKAGE)],
            artifacts={"checkpoint": str(bare)},
            signature=ModelSignature(Schema([ColSpec("binary", "video")]), Schema(answer)),
            input_example=pd.DataFrame({"video": [video.read_bytes()]}),
            validate_serving_input=False,  # validation would load the image model in this process
            pip_requirements=_requirements(config),
        )
    return str(logged.model_uri)


def _requirements(config: Config) -> list[str]:
    """Requirements: needed packages at their installed versions, and the package of the image model's weights."""
    weights = config.model.ifm.weights or ""
    carried = [weights.removeprefix("package:")] if weights.startswith("package:") else []
    return [f"{name}=={packages.release(name)}" for name in (*SERVED, *carried)]


def _save(*, validate_serving_input: bool, **model: Any) -> None:
    """Drop `validate_serving_input`: `Model.log` passes it on, but `pyfunc.save_model` refuses it."""
    import mlflow

    mlflow.pyfunc.save_model(**model)


def register(client: MlflowClient, config: Config, run_id: str, checkpoint: Path, uri: str) -> None:
    """Register an uploaded model as a version of `model_name`, and set the alias `best` if it is the best version."""
    from mlflow.exceptions import MlflowException

    name = model_name(config)
    with contextlib.suppress(MlflowException):  # the registered model exists already
        client.create_registered_model(name)
    score = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["metrics"].get(METRIC, 0.0)
    version = client.create_model_version(name, uri, run_id, model_id=uri.removeprefix("models:/")).version
    client.set_model_version_tag(name, version, METRIC, f"{score:.6g}")
    try:
        best = float(client.get_model_version_by_alias(name, "best").tags[METRIC])
    except (MlflowException, KeyError):
        best = -1.0
    if score >= best:
        client.set_registered_model_alias(name, "best", version)


def fetch(uri: str) -> Path:
    """Download a model's checkpoint by `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/ID/model`.

    Raises:
        TrackingError: the model does not exist, or the server does not answer.
    """
    import mlflow

    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri))
    except Exception as error:  # MLflow, SQLAlchemy and requests raise unrelated types
        raise TrackingError(
            f"{uri}: cannot download this model from MLflow ({reason_of(error)}); check MLFLOW_TRACKING_URI"
        ) from None
    found = sorted(folder.rglob("model.safetensors"))
    if not found:
        raise TrackingError(f"{uri}: this is not a model of advise-ray (it has no model.safetensors)")
    return found[0].parent

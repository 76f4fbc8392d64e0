"""MLflow's model registry: checkpoints as models that it can serve, and the way back."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from advise_ray.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRIC = "val/top1"
"""The version with the highest has the alias `best`."""


def register(client: MlflowClient, uri: str, name: str, run_id: str, checkpoint: Path) -> None:
    """Log a checkpoint as a model of a run, models from code (`serving.py`), and register it under `name`."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    mlflow.set_tracking_uri(uri)
    answer = [ColSpec("string", "class"), ColSpec("double", "probability"), ColSpec("string", "error")]
    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("serving.py")),
            artifacts={"checkpoint": str(checkpoint)},
            signature=ModelSignature(Schema([ColSpec("binary", "video")]), Schema(answer)),
            pip_requirements=[f"advise-ray=={metadata.version('advise-ray')}"],
            registered_model_name=name,
            await_registration_for=None,
        )
    score = json.loads((checkpoint / "state.json").read_text())["metrics"].get(METRIC, 0.0)
    version = str(logged.registered_model_version)
    client.set_model_version_tag(name, version, METRIC, f"{score:.6g}")
    try:
        best = float(client.get_model_version_by_alias(name, "best").tags[METRIC])
    except (MlflowException, KeyError):
        best = -1.0
    if score >= best:
        client.set_registered_model_alias(name, "best", version)


def fetch(uri: str) -> Path:
    """The checkpoint of a model that MLflow has, by `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/ID/model`.

    Raises:
        TrackingError: it is not there, or the server is away.
    """
    import mlflow

    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri))
    except Exception as error:  # MLflow's, SQLAlchemy's and requests' kinds
        reason = " ".join(str(error).split())[:200]
        raise TrackingError(f"{uri}: MLflow does not give it ({reason}); is MLFLOW_TRACKING_URI right?") from None
    found = sorted(folder.rglob("model.safetensors"))
    if not found:
        raise TrackingError(f"{uri}: is no model of advise-ray's (it has no model.safetensors)")
    return found[0].parent

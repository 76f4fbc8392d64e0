"""MLflow's model registry: checkpoints as models that it can serve, and the way back."""

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
"""The version with the highest has the alias `best`."""
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
"""What a logged model needs where it is loaded; this package itself goes with it."""


def model_name(config: Config) -> str:
    """Models of one experiment and task compete for the alias `best`."""
    return re.sub(r"[/:]", "-", f"{config.tracking.experiment}-{config.task}")


def upload(client: MlflowClient, config: Config, run_id: str, checkpoint: Path) -> str:
    """Log a checkpoint as a model of a run, models from code (`deploy/serve.py`); its `models:/` URI.

    This package goes with it as code. A requirement by its name would be whatever an index has under that name.
    The run may have ended: its status stays as it is (`mlflow.pyfunc.log_model` would set it running).
    """
    import mlflow
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    mlflow.set_tracking_uri(tracking_uri(config))
    # A model belongs to MLflow's active experiment, not to its run's: to "Default", and its files to ./mlruns.
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
            validate_serving_input=False,  # not tried out: that would load the image model, here
            pip_requirements=_requirements(config),
        )
    return str(logged.model_uri)


def _requirements(config: Config) -> list[str]:
    """What it was trained with, at those versions, and the package that has its image model's weights, if one has."""
    weights = config.model.ifm.weights or ""
    carried = [weights.removeprefix("package:")] if weights.startswith("package:") else []
    return [f"{name}=={packages.release(name)}" for name in (*SERVED, *carried)]


def _save(*, validate_serving_input: bool, **model: Any) -> None:
    """`Model.log` knows this switch, and hands it on; `pyfunc.save_model` refuses what it does not know."""
    import mlflow

    mlflow.pyfunc.save_model(**model)


def register(client: MlflowClient, config: Config, run_id: str, checkpoint: Path, uri: str) -> None:
    """Register an uploaded model under `model_name`, and mark the best of them."""
    from mlflow.exceptions import MlflowException

    name = model_name(config)
    with contextlib.suppress(MlflowException):  # there is one
        client.create_registered_model(name)
    score = json.loads((checkpoint / "state.json").read_text())["metrics"].get(METRIC, 0.0)
    version = client.create_model_version(name, uri, run_id, model_id=uri.removeprefix("models:/")).version
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
        raise TrackingError(
            f"{uri}: MLflow does not give it ({reason_of(error)}); is MLFLOW_TRACKING_URI right?"
        ) from None
    found = sorted(folder.rglob("model.safetensors"))
    if not found:
        raise TrackingError(f"{uri}: is no model of advise-ray's (it has no model.safetensors)")
    return found[0].parent

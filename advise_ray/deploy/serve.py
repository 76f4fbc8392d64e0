"""The code that MLflow runs to serve a trained model ("models from code"): classifies videos that are sent as bytes.

A client sends the video itself, never a path. With a path, a client could read any file of the server.
"""

from __future__ import annotations

from typing import Any, TypedDict

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from advise_ray.deploy.load import load
from advise_ray.errors import VideoDecodeError

Answer = TypedDict("Answer", {"class": str, "probability": float, "error": str})
"""The most probable class of a video with its probability, or 0 and the reason why the video cannot be decoded."""


class Classifier(mlflow.pyfunc.PythonModel):
    """Takes a column `video` of bytes; returns one row for each video: `class`, `probability` and `error`."""

    def load_context(self, context: Any) -> None:
        """Load the checkpoint that was logged with the model."""
        self.model = load(context.artifacts["checkpoint"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The most probable class of each video, or the reason why the video cannot be decoded.

        Raises:
            MlflowException: a value is not bytes.
        """
        return pd.DataFrame([self._row(video) for video in model_input["video"]])

    def _row(self, video: Any) -> Answer:
        if not isinstance(video, bytes):
            raise MlflowException("video: send the bytes of a video file (base64 in JSON)", INVALID_PARAMETER_VALUE)
        try:
            found = self.model.predict(video)
        except VideoDecodeError as error:
            return {"class": "", "probability": 0.0, "error": error.reason}
        best = max(found, key=lambda name: found[name])
        return {"class": best, "probability": found[best], "error": ""}


mlflow.models.set_model(Classifier())

"""The code that MLflow runs to serve a trained model ("models from code"): classifies videos that are sent as bytes.

A client sends the video itself, never a path. With a path, a client could read any file of the server. Other processes
decode, so a file can neither crash nor block the server.
"""

from __future__ import annotations

import base64
import math
import os
import queue
import time
from dataclasses import replace
from typing import Any, TypedDict

import mlflow
import pandas as pd
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from advise_ray.deploy.load import load
from advise_ray.errors import DecoderError, VideoDecodeError
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.probe import LIMITS

MOST_DECODERS = 4
"""Maximum number of requests that decode at the same time. Each has a process, and a server has one per CPU."""
MOST_BYTES = 256 * 2**20
"""Maximum size of a video."""
SERVED = replace(LIMITS, max_frames=200_000)
USED_FRACTION = 0.75
"""Fraction of MLflow's time limit for a request after which we answer, because MLflow's own answer has no reason."""

Answer = TypedDict("Answer", {"class": str, "probability": float, "error": str})
"""The most probable class of a video with its probability, or 0 and the reason why the video cannot be classified."""


class Classifier(mlflow.pyfunc.PythonModel):
    """Takes a column `video` of bytes; returns one row for each video: `class`, `probability` and `error`."""

    def load_context(self, context: Any) -> None:
        """Load the checkpoint that was logged with the model."""
        self.model = load(context.artifacts["checkpoint"])
        self.decoders: queue.SimpleQueue[DecodeProcess] = queue.SimpleQueue()
        for _ in range(min(MOST_DECODERS, os.cpu_count() or 1)):
            self.decoders.put(DecodeProcess(self.model.config.data.decode_timeout_s))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The most probable class of each video, or the reason why the video cannot be classified.

        Raises:
            MlflowException: a value is not bytes (status 400); the decoder does not start (500). In a server also: none
                of the videos can be classified (400); all decoders are in use until the request's time is over (503).
        """
        limit_s = _limit_s()
        ends_s = math.inf if limit_s is None else time.monotonic() + limit_s
        videos = list(model_input["video"])
        if not all(isinstance(video, bytes) for video in videos):
            raise MlflowException("video: send the bytes of a video file (base64 in JSON)", INVALID_PARAMETER_VALUE)
        try:
            decoder = self.decoders.get(timeout=limit_s)
        except queue.Empty:
            raise MlflowException("the server is busy; send the videos again later", TEMPORARILY_UNAVAILABLE) from None
        try:
            rows = [self._row(_file(video), decoder, ends_s) for video in videos]
        except DecoderError as error:
            raise MlflowException(str(error)) from None
        finally:
            self.decoders.put(decoder)
        if limit_s is not None and rows and all(row["error"] for row in rows):
            reasons = "; ".join(dict.fromkeys(row["error"] for row in rows))
            raise MlflowException(f"video: cannot be classified: {reasons}", INVALID_PARAMETER_VALUE)
        return pd.DataFrame(rows, columns=list(Answer.__annotations__))

    def _row(self, video: bytes, decoder: DecodeProcess, ends_s: float) -> Answer:
        left_s = ends_s - time.monotonic()
        if len(video) > MOST_BYTES:
            return _failed(f"{len(video)} bytes are more than the {MOST_BYTES} bytes allowed")
        if left_s <= 0:
            return _failed("the time of the request is over; send fewer videos at once")
        decoder.deadline_s = math.ceil(min(self.model.config.data.decode_timeout_s, left_s))
        try:
            _, frames, clips = self.model.read(decoder, video, limits=SERVED)
        except VideoDecodeError as error:
            return _failed(error.reason)
        scores = self.model.scores(frames, clips)
        return {"class": self.model.classes[scores.argmax()], "probability": float(scores.max()), "error": ""}


def _file(video: bytes) -> bytes:
    """Undo base64, which MLflow itself does only for `dataframe_records` and `dataframe_split`."""
    try:
        return base64.b64decode(video, validate=True)
    except ValueError:
        return video


def _failed(reason: str) -> Answer:
    return {"class": "", "probability": 0.0, "error": reason}


def _limit_s() -> float | None:
    """Seconds in which a server must answer a request. None: this is no server, but a program that uses the model."""
    is_server = os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT") == "true"
    return USED_FRACTION * MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get() if is_server else None


mlflow.models.set_model(Classifier())

"""The errors that users can see. Each message says what is wrong, where, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class AdviseRayError(Exception):
    """Base class of all errors. The command line prints the message without a traceback and exits with `exit_code`."""

    exit_code = 1


class UsageError(AdviseRayError):
    """The command cannot be executed as given: a file is missing, the run directory exists, or CPUs are too few."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration is invalid; `problems` has one line for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class VideoDecodeError(AdviseRayError):
    """A video cannot be read.

    Attributes:
        video: Name of the video.
        reason: A short phrase for `rejects.parquet`.
        lasting: Whether the file itself is the cause, so that retries do not help.
        detail: The message of the library.
        part: The `video.probe.VideoInfo` of the readable part of a damaged file, or None.
    """

    def __init__(self, video: str, reason: str, lasting: bool = True, detail: str = "", part: Any = None) -> None:
        self.video = video
        self.reason = reason
        self.lasting = lasting
        self.detail = detail
        self.part = part
        super().__init__(f"{video}: {reason}")

    def __reduce__(self) -> tuple[type[VideoDecodeError], tuple[str, str, bool, str, Any]]:
        return type(self), (self.video, self.reason, self.lasting, self.detail, self.part)


class DecoderError(AdviseRayError):
    """Decoding failed for a reason that no video is to blame for: its process does not start, or has a fault."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return self.reason  # Ray Data adds lines about itself to `args`

    def __reduce__(self) -> tuple[type[DecoderError], tuple[str]]:
        return type(self), (self.reason,)


class TrainingError(AdviseRayError):
    """A run stopped: too many videos failed, the loss is not finite, or a worker died too often."""


class EvaluationError(AdviseRayError):
    """An evaluation failed: too many videos cannot be decoded."""


class CacheError(AdviseRayError):
    """A feature cache was not finished: the disk is full, or too many videos cannot be decoded."""


class SweepError(AdviseRayError):
    """No trial of a sweep finished."""


class ResourcesError(AdviseRayError):
    """The CPUs, GPUs or nodes that a run waited for did not become available in time."""


class RayError(AdviseRayError):
    """Ray cannot be started or joined."""


class ClusterError(AdviseRayError):
    """A cluster cannot be started, reached or used."""


class ExportError(AdviseRayError):
    """The format cannot represent the model, or its outputs differ."""


class TrackingError(AdviseRayError):
    """The tracking server cannot be reached, or rejected the data."""


class InterruptedRunError(AdviseRayError):
    """The run was stopped by Ctrl-C or SIGTERM; it can be resumed from its last checkpoint."""

    exit_code = 130


def unwrapped(error: BaseException) -> BaseException:
    """Return the error that another process has raised. Ray wraps it, with a traceback of many lines as its message."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    return error

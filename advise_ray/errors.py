"""The errors a user can meet. Each message says what is wrong, where, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class AdviseRayError(Exception):
    """The work failed. The command line prints the message without a traceback and exits with `exit_code`."""

    exit_code = 1


class UsageError(AdviseRayError):
    """What was asked for cannot be done as asked: a missing file, a run directory in the way, too few CPUs."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration that does not hold; `problems` has one line for each thing that is wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class VideoDecodeError(AdviseRayError):
    """One video that cannot be read; `reason` is a short phrase for `rejects.parquet`.

    `lasting`: the file itself is to blame, so that trying again would not help. `detail`: what the library said.
    `part`: of a damaged file, what is known of the part that can be read (`video.decode.VideoInfo`).
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


class TrainingError(AdviseRayError):
    """A run that stopped: too many failed videos, a loss that is not finite, a worker that kept dying."""


class EvaluationError(AdviseRayError):
    """A protocol that could not be carried out: too many videos that cannot be decoded."""


class CacheError(AdviseRayError):
    """A feature cache that was not finished: no room, or too many videos that cannot be decoded."""


class SweepError(AdviseRayError):
    """A sweep of which no trial came to its end."""


class ResourcesError(AdviseRayError):
    """What a run waited for did not come in time."""


class RayError(AdviseRayError):
    """Ray cannot be started or joined."""


class ClusterError(AdviseRayError):
    """A cluster that cannot be started, reached or used as it is."""


class ExportError(AdviseRayError):
    """A model that a format cannot hold, or not truly."""


class TrackingError(AdviseRayError):
    """The tracking server cannot be reached or refused what was sent."""


class InterruptedRunError(AdviseRayError):
    """The run was stopped by Ctrl-C or SIGTERM; it can be resumed from its last checkpoint."""

    exit_code = 130

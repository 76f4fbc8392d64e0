"""The data that the driver sends to each worker. Imports quickly: Ray Train's controller imports it too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advise_ray.config import Config
from advise_ray.storage.remote import is_url
from advise_ray.training.batch_schedule import Schedule

if TYPE_CHECKING:
    from advise_ray.cache.identity import Identity
    from advise_ray.model.advise import AdViSe


def streams(config: Config) -> bool:
    """Whether Ray Data streams the clips. If not, the workers read a local feature cache themselves."""
    return config.data.features is None or is_url(config.data.features)


@dataclass(frozen=True)
class WorkerSpec:
    """The specification of a run for its workers. Ray's object store sends the model's weights once to each node."""

    config: Config
    schedule: Schedule
    classes: list[str]
    run_dir: Path
    videos: Any
    """ObjectRef of the Videos; None for a worker in this process."""
    weights: Any
    """ObjectRef of the initial state dict; None for a worker in this process."""
    ifm_sha256: str
    manifest_sha256: str
    use_gpu: bool
    cached: Identity | None
    """Identity of the feature cache that replaces the image model, or None."""

    def empty_model(self) -> AdViSe:
        """Build the model, without weights. The caller loads `weights` into it."""
        from advise_ray.model.advise import cached_advise, empty_advise

        if self.cached is None:
            return empty_advise(self.config, len(self.classes))
        return cached_advise(self.config, len(self.classes), self.cached.channels, self.cached.grid)

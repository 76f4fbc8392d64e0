"""Plans a cache before it is written: the videos to encode, their bytes, and whether they fit on the disk."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from advise_ray.backend import session
from advise_ray.cache.compatibility import differences, identify, slowest_step_frames
from advise_ray.cache.folder import is_cache, part_names
from advise_ray.cache.identity import Identity
from advise_ray.cache.piece_index import INDEX_SCHEMA, finished_pieces
from advise_ray.cache.pieces import Pieces, described_keys
from advise_ray.cache.sizes import cache_bytes, free_bytes, smaller
from advise_ray.cache.store import read_identity
from advise_ray.config import Config
from advise_ray.errors import ConfigError, UsageError
from advise_ray.model.advise import AdViSe, build_advise
from advise_ray.model.precision import notes_for_cpu
from advise_ray.storage import remote
from advise_ray.storage.mapped import ROWS_AT_ONCE, mapped
from advise_ray.video.manifest import Videos, frames_per_video
from advise_ray.video.pool import read_each


@dataclass(frozen=True)
class CachePlan:
    """What `writer.write_cache` has to do.

    Attributes:
        location: absolute path, or URL, of the cache's folder.
        videos: the videos of all manifests, each once.
        model: encodes the frames with its frozen part.
        identity: the content of `cache.json`.
        begun: whether the folder has a cache, which is extended.
        missing: int64[m], rows of `videos` that the cache lacks, or has in part.
        free_bytes: free bytes on the disk; None for an object store.
    """

    config: Config
    location: str
    videos: Videos
    model: AdViSe
    identity: Identity
    begun: bool
    missing: NDArray[np.int64]
    free_bytes: int | None

    @property
    def needed_bytes(self) -> int:
        """Predicted bytes of the missing videos."""
        return cache_bytes(self.identity, self._num_frames[self.missing])

    @functools.cached_property
    def _num_frames(self) -> NDArray[np.int64]:
        return frames_per_video(self.videos.table)

    @property
    def _slowest_step(self) -> float:
        return slowest_step_frames(self.config, np.asarray(self.videos.table.column("fps")))

    @property
    def fits(self) -> bool:
        return self.free_bytes is None or self.needed_bytes <= self.free_bytes

    def lacking(self, index: pa.Table) -> NDArray[np.int64]:
        """Rows of `videos` that a cache with this index lacks, or has in part, int64[m]."""
        return np.flatnonzero(~Pieces(index).complete(self.videos.table, self.identity))

    def revised(self, index: pa.Table) -> CachePlan:
        """The plan for a cache with this index and the present free bytes."""
        return replace(self, missing=self.lacking(index), free_bytes=free_bytes(self.location))

    def would_fit(self) -> dict[str, int]:
        """Smaller caches from which this recipe could be trained, if the planned one does not fit: setting → bytes.

        Empty if the folder already has a cache.
        """
        if self.free_bytes is None or self.fits or self.begun:
            return {}
        return smaller(self.identity, self._num_frames, self.free_bytes, self._slowest_step)

    def summary(self) -> dict[str, Any]:
        """The output of `--dry-run`. `would_fit` is only there if the cache does not fit."""
        return {
            "cache": self.location,
            "videos": len(self.videos),
            "videos_to_encode": len(self.missing),
            "frames_to_encode": int(self.identity.num_kept(self._num_frames[self.missing]).sum()),
            "frame_bytes": self.identity.frame_bytes,
            "bytes": self.needed_bytes,
            "free_bytes": self.free_bytes,
            "fits": self.fits,
            **({} if self.fits else {"would_fit": self.would_fit()}),
            "notes": self.notes(),
        }

    def notes(self) -> list[str]:
        """Notes for the user before the job starts."""
        notes = []
        slowest, step = self._slowest_step, self.identity.frame_step
        if slowest < step:
            notes.append(
                f"cache.frame_step: this recipe cannot be trained from this cache: its slowest clips have a frame step "
                f"of {slowest:g}, but the cache has {step}; use a larger data.clip.frame_stride"
            )
        if not (session.available_gpus() if self.config.train.use_gpu is None else self.config.train.use_gpu):
            notes += notes_for_cpu({"model.ifm.precision": self.config.model.ifm.precision})
        return notes


def plan_cache(config: Config, location: str) -> CachePlan:
    """Plan a cache in a folder or at a URL, or the extension of the cache that is there.

    Raises:
        UsageError, ConfigError: the manifest or the model is not usable, or the folder holds another cache.
    """
    if config.model.kind == "r3d50":
        raise ConfigError(["model.kind: r3d50 has no frozen image model whose features could be cached"])
    location = remote.local_or_url(location)
    # The video ids of each single manifest, not those of the pool, so that runs on one manifest find its videos.
    distinct = _distinct([Videos(table).table for table in read_each(config.data)])
    model = build_advise(config, num_classes=2)
    ifm_sha256 = model.ifm.hash_weights()
    cache = config.cache
    identity = identify(config, model, ifm_sha256, frame_step=cache.frame_step, views=cache.views)
    begun = is_cache(location) and _can_extend(location, identity, config, model, ifm_sha256)
    plan = CachePlan(config, location, distinct, model, identity, begun, np.arange(0), None)
    return plan.revised(finished_pieces(location) if begun else INDEX_SCHEMA.empty_table())


def _distinct(tables: Sequence[pa.Table]) -> Videos:
    """The videos of all manifests, each once: in its first place, with the columns of the last manifest that has it."""
    every = pa.concat_tables(tables)
    if len(tables) == 1:
        return Videos(every)
    keys = described_keys(every)
    _, first = np.unique(keys, return_index=True)
    _, from_end = np.unique(keys[::-1], return_index=True)
    rows = (len(keys) - 1 - from_end)[np.argsort(first)]
    parts = (every.take(pa.array(rows[at : at + ROWS_AT_ONCE])) for at in range(0, len(rows), ROWS_AT_ONCE))
    return Videos(mapped(every.schema, (batch for part in parts for batch in part.combine_chunks().to_batches())))


def _can_extend(location: str, identity: Identity, config: Config, model: AdViSe, ifm_sha256: str) -> bool:
    """Whether the folder has a cache with the wanted identity. False if it has another one without any features.

    Raises:
        ConfigError: it has features of another identity.
    """
    held = read_identity(location)
    problems = differences(held, config, model, ifm_sha256)
    for key in ("frame_step", "views"):
        if getattr(held, key) != getattr(identity, key):
            problems.append(f"cache.{key}: the cache has {getattr(held, key)}, the recipe {getattr(identity, key)}")
    if problems and part_names(location):
        raise ConfigError([*problems, f"{location} holds another cache; use another folder, or its recipe"])
    return not problems


def refuse_too_large(plan: CachePlan) -> None:
    """Raise UsageError if the disk has too little room for the missing videos."""
    if plan.fits:
        return
    problem = f"--out: {plan.location} has {plan.free_bytes:,} bytes free, but"
    if plan.begun:
        raise UsageError(
            f"{problem} the {len(plan.missing)} of {len(plan.videos)} videos that it lacks take "
            f"{plan.needed_bytes:,}; free some space, or make a smaller cache elsewhere (--dry-run with another --out "
            "lists some)"
        )
    fitting = ", ".join(f"{how} ({size:,} bytes)" for how, size in plan.would_fit().items())
    less = f"what would fit: {fitting}" if fitting else "no smaller cache for this recipe fits: choose another --out"
    raise UsageError(f"{problem} the cache takes {plan.needed_bytes:,}; {less}")

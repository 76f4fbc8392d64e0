"""`cache`: every video of a manifest through the image model, once; it goes on where it was, and adds what is new."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from advise_ray import runtime
from advise_ray.cache import store
from advise_ray.cache.encoding import EncodePart, group_pieces
from advise_ray.cache.identity import Identity
from advise_ray.cache.matching import differences, identify
from advise_ray.cache.parts import Part
from advise_ray.cache.sizes import cache_bytes, free_bytes, smaller
from advise_ray.config import Config
from advise_ray.dataset.encoding import encode_groups
from advise_ray.errors import CacheError, ConfigError, InterruptedRunError, UsageError
from advise_ray.model.advise import AdViSe, build_advise
from advise_ray.shares import share_cpus
from advise_ray.video import storage
from advise_ray.video.frames import group_of
from advise_ray.video.manifest import Video, read_manifest, videos

log = logging.getLogger("advise_ray")
OnProgress = Callable[[int, int], None]
Row = dict[str, Any]


class CacheJob:
    """What is to be done: planned when it is made, and nothing written before `run`.

    Raises:
        UsageError, ConfigError: the manifest, the model, or a folder that holds another cache.
    """

    def __init__(self, config: Config, location: str) -> None:
        if config.data.manifest is None:
            raise ConfigError(["data.manifest: required; make one with `advise-ray data index`"])
        if config.model.kind == "r3d50":
            raise ConfigError(["model.kind: r3d50 has no frozen image model whose features could be kept"])
        self.config, self.location = config, storage.local_or_url(location)
        self.videos: list[Video] = videos(read_manifest(Path(config.data.manifest)))
        self.model: AdViSe = build_advise(config, num_classes=2)
        cache = config.cache
        ifm_sha256 = self.model.ifm.hash_weights()
        self.identity: Identity = identify(
            config, self.model, ifm_sha256, frame_step=cache.frame_step, views=cache.views
        )
        self.begun = _is_cache(self.location)
        if self.begun:
            held = store.read_identity(self.location)
            problems = differences(held, config, self.model, ifm_sha256)
            for key in ("frame_step", "views"):
                if getattr(held, key) != getattr(self.identity, key):
                    problems.append(
                        f"cache.{key}: the cache has {getattr(held, key)}, the recipe {getattr(self.identity, key)}"
                    )
            if problems:
                raise ConfigError(
                    [*problems, f"{self.location} holds another cache; use another folder, or its recipe"]
                )

    def summary(self) -> Row:
        """What `run` would add: bytes, the room that there is, and where it does not suffice, what would fit."""
        index = store.read_index(self.location) if self.begun else []
        missing = [self.videos[row] for row in self._missing(index)]
        needed = cache_bytes(self.identity, missing)
        free = free_bytes(self.location)
        return {
            "cache": self.location,
            "videos": len(self.videos),
            "videos_to_encode": len(missing),
            "frames_to_encode": sum(len(self.identity.frames(video)) for video in missing),
            "frame_bytes": self.identity.frame_bytes,
            "bytes": needed,
            "free_bytes": free,
            "fits": free is None or needed <= free,
            "would_fit": {} if free is None or needed <= free else smaller(self.identity, missing, free),
        }

    def run(self, on_progress: OnProgress = lambda done, total: None) -> Row:
        """Encode what is not there yet; `on_progress` is called with pieces done and pieces to do.

        Raises:
            CacheError: no room is left, or too many videos cannot be decoded; what was written stays.
            InterruptedRunError: on KeyboardInterrupt; the same.
        """
        started_s = time.monotonic()
        with _lock(self.location):
            _sweep(self.location)
            if not self.begun:
                store.write_identity(self.location, self.identity)
            index, damaged = self._held()
            missing = self._missing(index)
            self._refuse_too_large(missing)
            rejects: dict[str, str] = {}
            try:
                self._encode(missing, index, rejects, on_progress)
            except KeyboardInterrupt:
                raise InterruptedRunError(
                    f"interrupted; {len(self.videos) - len(self._missing(index))} of {len(self.videos)} videos are "
                    "kept; the same command goes on"
                ) from None
            finally:
                store.write_index(self.location, index)
                store.write_rejects(self.location, rejects)
        left = self._missing(index)
        if len(rejects) > self.config.data.max_failed_fraction * len(self.videos):
            raise CacheError(
                f"{len(rejects)} of {len(self.videos)} videos cannot be decoded, more than data.max_failed_fraction="
                f"{self.config.data.max_failed_fraction} allows; such as {': '.join(next(iter(rejects.items())))}"
            )
        return {
            "cache": self.location,
            "videos": len(self.videos),
            "encoded": len(missing) - len(left),
            "failed_videos": len(rejects),
            "damaged_parts": damaged,
            "bytes": sum({row["part"]: row["part_bytes"] for row in index}.values()),
            "wall_s": round(time.monotonic() - started_s, 1),
        }

    def _refuse_too_large(self, missing: list[int]) -> None:
        wanted = [self.videos[row] for row in missing]
        needed, free = cache_bytes(self.identity, wanted), free_bytes(self.location)
        if free is not None and needed > free:
            fitting = ", ".join(f"{how} ({size:,} bytes)" for how, size in smaller(self.identity, wanted, free).items())
            raise UsageError(
                f"--out: {self.location} has {free:,} bytes free, and the cache takes {needed:,}; "
                + (f"what would fit: {fitting}" if fitting else "no smaller one fits either")
            )

    def _held(self) -> tuple[list[Row], list[str]]:
        """The pieces that are there and whole; parts that are damaged are named, and go."""
        rows, damaged = [], []
        for name in _part_names(self.location):
            try:
                part = Part(self.location, name)
                found = list(store.rows_of(part))
                for row in found:
                    part.features(row["row"], self.identity.views, self.identity.frame_shape, crc32=row["crc32"])
                part.close()
                rows += found
            except (OSError, pa.ArrowInvalid, ValueError) as error:
                log.warning("%s is damaged (%s); its videos are computed again", name, error)
                damaged.append(name)
                storage.delete(storage.join(self.location, name))
        return rows, damaged

    def _missing(self, index: list[Row]) -> list[int]:
        """Rows of the manifest of which a frame is not there."""
        pieces = store.Pieces(index)
        return [number for number, video in enumerate(self.videos) if not pieces.complete(video, self.identity)]

    def _encode(self, missing: list[int], index: list[Row], rejects: dict[str, str], on_progress: OnProgress) -> None:
        groups = list(group_pieces(self.config, self.identity, self.videos, missing))
        done, total = 0, sum(map(len, groups))
        if not groups:
            return
        runtime.connect()
        shares = share_cpus(self.config, runtime.nodes())
        function = EncodePart(self.config, self.identity, self.videos, self.location)
        tables = [group_of(group) for group in groups]
        for block in encode_groups(tables, function, self.config, self.model, 2, shares):
            if block["error"][0]:
                raise CacheError(
                    f"{self.location}: {block['error'][0]}; {len(self.videos) - len(self._missing(index))} of "
                    f"{len(self.videos)} videos are there and stay; the same command goes on when there is room, and "
                    "--dry-run says what takes less"
                )
            if block["part"][0]:
                index += store.rows_of(Part(self.location, str(block["part"][0])))
            for row, failure in zip(block["rows"][0], str(block["failures"][0]).split("\n"), strict=True):
                if failure:
                    rejects[self.videos[row].video_id] = failure
            done += len(block["rows"][0])
            on_progress(done, total)


def _is_cache(location: str) -> bool:
    if storage.is_url(location):
        try:
            storage.read_file(storage.join(location, "cache.json"))
        except OSError:
            return False
        return True
    path = Path(location)
    if (path / "cache.json").is_file():
        return True
    if path.exists() and (not path.is_dir() or any(entry.name != ".lock" for entry in path.iterdir())):
        raise UsageError(f"--out: {path} is there, and is not a feature cache; name a new folder")
    return False


def _sweep(location: str) -> None:
    """Remove what a killed job had half written."""
    if not storage.is_url(location):
        for path in Path(location).glob(".*.partial"):
            path.unlink()


def _part_names(location: str) -> list[str]:
    return sorted(file.path for file in storage.list_files(location) if file.path.startswith("part-"))


@contextlib.contextmanager
def _lock(location: str) -> Iterator[None]:
    """One job a folder; the lock goes with the process. Object stores have no locks: two jobs there do work twice.

    Raises:
        UsageError: another job is at it.
    """
    if storage.is_url(location):
        yield
        return
    path = Path(location) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"--out: another `advise-ray cache` is writing to {location}; wait for it") from None
        yield

"""The `cache` command: encodes every video of a manifest once. Run again, it continues and adds new videos."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from advise_ray.backend import session, shutdown_notice
from advise_ray.backend.frame_encoder import encode_groups
from advise_ray.cache import store
from advise_ray.cache.compatibility import differences, identify, slowest_step_frames
from advise_ray.cache.folder import is_cache, lock, part_names, sweep
from advise_ray.cache.identity import Identity
from advise_ray.cache.part_encoder import EncodePart, group_pieces
from advise_ray.cache.part_file import Part, described
from advise_ray.cache.sizes import cache_bytes, free_bytes, smaller
from advise_ray.config import Config
from advise_ray.errors import CacheError, ConfigError, InterruptedRunError, UsageError
from advise_ray.model.advise import AdViSe, build_advise
from advise_ray.model.precision import notes_for_cpu
from advise_ray.storage import remote
from advise_ray.video.frames import group_of
from advise_ray.video.manifest import Video, videos
from advise_ray.video.pool import read_each

log = logging.getLogger("advise_ray")
OnProgress = Callable[[int, int], None]
Row = dict[str, Any]
DAMAGED = (OSError, pa.ArrowInvalid, ValueError)


class CacheJob:
    """A job that creates or extends a cache. The constructor plans the job; only `run` writes files.

    Raises:
        UsageError, ConfigError: the manifest or the model is not usable, or the folder holds another cache.
    """

    def __init__(self, config: Config, location: str) -> None:
        if config.model.kind == "r3d50":
            raise ConfigError(["model.kind: r3d50 has no frozen image model whose features could be cached"])
        self.config, self.location = config, remote.local_or_url(location)
        # The video ids of each single manifest, not those of the pool, so that runs on one manifest find its videos.
        every = [video for table in read_each(config.data) for video in videos(table)]
        self.videos: list[Video] = list({described(video): video for video in every}.values())
        self.model: AdViSe = build_advise(config, num_classes=2)
        cache = config.cache
        ifm_sha256 = self.model.ifm.hash_weights()
        self.identity: Identity = identify(
            config, self.model, ifm_sha256, frame_step=cache.frame_step, views=cache.views
        )
        self.begun = is_cache(self.location)
        if self.begun:
            held = store.read_identity(self.location)
            problems = differences(held, config, self.model, ifm_sha256)
            for key in ("frame_step", "views"):
                if getattr(held, key) != getattr(self.identity, key):
                    problems.append(
                        f"cache.{key}: the cache has {getattr(held, key)}, the recipe {getattr(self.identity, key)}"
                    )
            if problems and not part_names(self.location):
                self.begun = False  # there are no features that could be lost
            elif problems:
                raise ConfigError(
                    [*problems, f"{self.location} holds another cache; use another folder, or its recipe"]
                )

    def summary(self) -> Row:
        """The plan of `run`: bytes to write, free bytes, and smaller caches that would fit if this one does not."""
        missing = [self.videos[row] for row in self._missing(self._finished_pieces())]
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
            "fits": (fits := free is None or needed <= free),
            **({} if fits else {"would_fit": self._would_fit(needed, free)}),
            "notes": self.notes(),
        }

    def notes(self) -> list[str]:
        """Notes for the user before the job starts."""
        notes = []
        slowest, step = slowest_step_frames(self.config, self.videos), self.identity.frame_step
        if slowest < step:
            notes.append(
                f"cache.frame_step: this recipe cannot be trained from this cache: its slowest clips have a frame step "
                f"of {slowest:g}, but the cache has {step}; use a larger data.clip.frame_stride"
            )
        if not (session.available_gpus() if self.config.train.use_gpu is None else self.config.train.use_gpu):
            notes += notes_for_cpu({"model.ifm.precision": self.config.model.ifm.precision})
        return notes

    def run(self, on_progress: OnProgress = lambda done, total: None) -> Row:
        """Encode the missing videos. If the job stops early, the parts that are written stay.

        Args:
            on_progress: called with the number of finished pieces and the number of all pieces to do.

        Raises:
            CacheError: the disk is full, or too many videos cannot be decoded.
            InterruptedRunError: on SIGINT or SIGTERM, after the group of videos that is being encoded.
        """
        started_s = time.monotonic()
        for note in self.notes():
            log.warning("note: %s", note)
        with lock(self.location):
            sweep(self.location)
            index, damaged = self._check_parts() if self.begun else ([], [])
            missing = self._missing(index)
            self._refuse_too_large(missing)
            rejects: dict[str, str] = {}
            try:
                if not self.begun:
                    store.write_identity(self.location, self.identity)
                self._encode(missing, index, rejects, on_progress)
                self._write_index(index, rejects)
            except BaseException as error:
                with contextlib.suppress(OSError):  # the next job finds the finished videos in the parts
                    self._write_index(index, rejects)
                if isinstance(error, KeyboardInterrupt):
                    kept = f"{self._count_cached(index)} are kept"
                    raise InterruptedRunError(f"interrupted; {kept}; the same command continues") from None
                if isinstance(error, OSError):
                    raise CacheError(self._stop_message(error.strerror or str(error), index)) from None
                raise
        left = self._missing(index)
        if len(rejects) > self.config.data.max_failed_fraction * len(self.videos):
            raise CacheError(
                f"{len(rejects)} of {len(self.videos)} videos cannot be decoded, more than data.max_failed_fraction="
                f"{self.config.data.max_failed_fraction} allows; for example {': '.join(next(iter(rejects.items())))}"
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
        if free is None or needed <= free:
            return
        problem = f"--out: {self.location} has {free:,} bytes free, but"
        if self.begun:
            raise UsageError(
                f"{problem} the {len(missing)} of {len(self.videos)} videos that it lacks take {needed:,}; free "
                "some space, or make a smaller cache elsewhere (--dry-run with another --out lists some)"
            )
        fitting = ", ".join(f"{how} ({size:,} bytes)" for how, size in self._would_fit(needed, free).items())
        less = (
            f"what would fit: {fitting}" if fitting else "no smaller cache for this recipe fits: choose another --out"
        )
        raise UsageError(f"{problem} the cache takes {needed:,}; {less}")

    def _would_fit(self, needed: int, free: int | None) -> dict[str, int]:
        """Smaller caches from which this recipe could be trained. Empty if the folder already has a cache."""
        if free is None or needed <= free or self.begun:
            return {}
        return smaller(self.identity, self.videos, free, slowest_step_frames(self.config, self.videos))

    def _stop_message(self, reason: str, index: list[Row]) -> str:
        return (
            f"{self.location}: {reason}; {self._count_cached(index)} are kept; fix this and run the same command again "
            "to continue; --dry-run with another --out lists smaller caches"
        )

    def _count_cached(self, index: list[Row]) -> str:
        return f"{len(self.videos) - len(self._missing(index))} of {len(self.videos)} videos"

    def _write_index(self, index: list[Row], rejects: dict[str, str]) -> None:
        """Write the index and the rejects. Earlier rejects of other manifests' videos are kept."""
        missing = {self.videos[row].video_id for row in self._missing(index)}  # several videos can have the same id
        complete = {video.video_id for video in self.videos} - missing
        store.write_index(self.location, index)
        known = store.read_rejects(self.location) | rejects
        store.write_rejects(self.location, {name: why for name, why in known.items() if name not in complete})

    def _finished_pieces(self) -> list[Row]:
        """The finished pieces, unchecked. Without an index (the job runs or was killed) they come from the parts."""
        if not self.begun:
            return []
        try:
            return store.read_index(self.location)
        except UsageError:
            rows: list[Row] = []
            for name in part_names(self.location):
                with contextlib.suppress(*DAMAGED):
                    rows += self._pieces(name, checked=False)
            return rows

    def _check_parts(self) -> tuple[list[Row], list[str]]:
        """Check all parts and delete damaged ones. Returns the intact pieces and the names of the damaged parts."""
        rows, damaged = [], []
        for name in part_names(self.location):
            try:
                rows += self._pieces(name, checked=True)
            except DAMAGED as error:
                log.warning("%s is damaged (%s); its videos are encoded again", name, error)
                damaged.append(name)
                remote.delete(remote.join(self.location, name))
        return rows, damaged

    def _pieces(self, name: str, *, checked: bool) -> list[Row]:
        """The rows of the index for a part. With `checked`, the check sums of its features are verified."""
        part = Part(self.location, name)
        rows = list(store.rows_of(part))
        for row in rows if checked else []:
            part.features(row["row"], self.identity.views, self.identity.frame_shape, crc32=row["crc32"])
        part.close()
        return rows

    def _missing(self, index: list[Row]) -> list[int]:
        """Rows of the manifest with videos that are not completely cached."""
        pieces = store.Pieces(index)
        return [number for number, video in enumerate(self.videos) if not pieces.complete(video, self.identity)]

    def _encode(self, missing: list[int], index: list[Row], rejects: dict[str, str], on_progress: OnProgress) -> None:
        groups = list(group_pieces(self.config, self.identity, self.videos, missing))
        done, total = 0, sum(map(len, groups))
        if not groups:
            return
        function = EncodePart(self.config, self.identity, self.videos, self.location)
        tables = [group_of(group) for group in groups]
        session.connect()  # the shutdown notice needs Ray
        with shutdown_notice.awaited(self.location, self.config.train.grace_s, lambda: done > 0) as noticed:
            for block in encode_groups(tables, function, self.config, self.model, 2):
                if block["error"][0]:
                    raise CacheError(self._stop_message(str(block["error"][0]), index))
                if block["part"][0]:
                    index += store.rows_of(Part(self.location, str(block["part"][0])))
                for row, failure in zip(block["rows"][0], str(block["failures"][0]).split("\n"), strict=True):
                    if failure:
                        rejects[self.videos[row].video_id] = failure
                done += len(block["rows"][0])
                on_progress(done, total)
                if noticed.given and done < total:
                    raise KeyboardInterrupt

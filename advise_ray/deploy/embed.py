"""`embed`: encodes videos clip by clip with a trained model, on Ray Data, and writes one Parquet file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from advise_ray import dataset
from advise_ray.backend.frame_encoder import Block, encode_groups
from advise_ray.config import Config, played_clip
from advise_ray.deploy.load import VideoModel, load
from advise_ray.errors import InterruptedRunError, UsageError
from advise_ray.model.advise import AdViSe
from advise_ray.model.precision import autocast
from advise_ray.storage.atomic import refuse_unwritable, write_whole
from advise_ray.video.augment_draws import centre
from advise_ray.video.frames import Wanted, group_of
from advise_ray.video.manifest import Video, read_manifest, videos
from advise_ray.video.rejects import read_rejects
from advise_ray.video.sampling import span_frames, stride_frames

FRAMES_AT_ONCE = 128
"""Batch size of the image model in frames, across clips and videos."""
GROUP_FRAMES = 512
"""Number of decoded frames in one group of the stream and one part file. It limits the memory use."""
SCHEMA = pa.schema(
    {
        "video_id": pa.string(),
        "clip_start_s": pa.float64(),
        "clip_end_s": pa.float64(),
        "embedding": pa.list_(pa.float32()),
        "top_classes": pa.list_(pa.string()),
        "top_probabilities": pa.list_(pa.float32()),
        "error": pa.string(),
    }
)
OnProgress = Callable[[int, int], None]
Row = dict[str, Any]


def embed(
    source: Path | str,
    footage: str,
    out: Path,
    *,
    top_k: int = 5,
    step_s: float | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Row:
    """Encode every video of a manifest or a folder clip by clip. The same call resumes an interrupted job.

    Args:
        source: see `deploy.load.load`.
        footage: a manifest (Parquet), or a folder or URL of videos.
        step_s: seconds from the start of one clip to the start of the next. None: each clip starts where the previous
            clip ends.

    Returns:
        The numbers of videos, clips and failures, and the output path. A video that cannot be decoded has one row with
        only its `video_id` and `error`.

    Raises:
        UsageError: the output file exists, or the videos do not.
        InterruptedRunError: on KeyboardInterrupt. Finished parts are kept.
    """
    started_s = time.monotonic()
    if out.exists():
        raise UsageError(f"--out: {out} exists; choose another file name, or remove the file")
    refuse_unwritable(out, "--out")
    model = load(source)
    parts = out.with_name(out.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(parts / ".lock", timeout=0):
            manifest, rejects = _listed(footage, parts)
            every = videos(read_manifest(manifest))
            _refuse_other(parts, model, manifest, step_s, top_k)
            _reject(rejects, parts)
            _encode(model, every, parts, step_s, top_k, on_progress)
            counts = _gather(parts, out)
    except Timeout:
        raise UsageError(f"--out: another `advise-ray embed` is writing {out}; wait until it ends") from None
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted; run the same command again to resume") from None
    shutil.rmtree(parts)
    return {
        "out": str(out),
        "videos": len(every) + len(rejects),
        **counts,
        "wall_s": round(time.monotonic() - started_s, 1),
    }


@dataclass(frozen=True)
class EmbedClips:
    """Encodes decoded frames (see `DecodeFrames`), writes their clips' rows as a part file, and returns its name."""

    config: Config
    classes: list[str]
    top_k: int
    videos: list[Video]
    parts: Path

    @torch.inference_mode()
    def __call__(self, model: AdViSe, device: torch.device, block: Block) -> Block:
        num_frames = self.config.data.clip.num_frames
        rows, counts, indices = block["rows"][0], block["counts"][0], block["indices"][0]
        failures = str(block["failures"][0]).split("\n")
        good = np.repeat([not failure for failure in failures], counts)
        embeddings, probabilities = self._apply(model, device, np.asarray(block["frames"][0])[good])
        table: list[Row] = []
        done = 0
        starts = np.cumsum([0, *counts])
        for row, failure, start, count in zip(rows, failures, starts[:-1], counts, strict=True):
            video = self.videos[row]
            if failure:
                table.append({"video_id": video.video_id, "error": failure})
                continue
            for clip in indices[start : start + count].reshape(-1, num_frames):
                best = np.argsort(-probabilities[done])[: self.top_k]
                table.append(
                    {
                        "video_id": video.video_id,
                        "clip_start_s": float(clip[0] / video.fps),
                        "clip_end_s": float((clip[-1] + 1) / video.fps),
                        "embedding": embeddings[done],
                        "top_classes": [self.classes[index] for index in best],
                        "top_probabilities": probabilities[done][best],
                    }
                )
                done += 1
        name = _part_name(rows, indices)
        partial = self.parts / f".{name}.partial"
        pq.write_table(pa.Table.from_pylist(table, schema=SCHEMA), partial)
        partial.rename(self.parts / name)
        return {"part": np.asarray([name]), "videos": np.asarray([len(rows)])}

    def _apply(
        self, model: AdViSe, device: torch.device, frames: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode K clips: uint8[K·T, H, W, 3] → embeddings float32[K, E], probabilities float32[K, classes]."""
        clip = self.config.data.clip
        middle = torch.from_numpy(centre(frames, self.config.augment))
        embeddings, probabilities = [], []
        for chunk in middle.split(max(1, FRAMES_AT_ONCE // clip.num_frames) * clip.num_frames):
            features = model.frame_features(chunk.to(device)).unflatten(0, (-1, clip.num_frames))
            with autocast(self.config.train.precision, device.type):
                embedding = model.temporal.embed(model.sfu.arrange(features))
                logits = model.temporal.classify(embedding)
            embeddings.append(embedding.float().cpu().numpy())
            probabilities.append(logits.float().softmax(1).cpu().numpy())
        if not embeddings:
            return np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
        return np.concatenate(embeddings), np.concatenate(probabilities)


def clips_of(video: Video, config: Config, step_s: float | None) -> NDArray[np.int64]:
    """Frame numbers int64[K, T] of a video's clips, from its first frame on.

    A video that is shorter than a clip gives one clip that repeats its last frame.
    """
    clip = played_clip(config)
    stride = max(1.0, stride_frames(clip, video.fps))
    offsets = np.floor(np.arange(clip.num_frames) * stride + 0.5).astype(np.int64)
    length = len(video.frames)
    span = span_frames(clip.num_frames, stride)
    step = span if step_s is None else max(1, round(step_s * video.fps))
    starts = np.arange(0, max(length - span, 0) + 1, step)
    return video.frames[0] + np.minimum(starts[:, None] + offsets, length - 1)


def _groups(every: list[Video], config: Config, step_s: float | None) -> Iterator[list[Wanted]]:
    """Group the clips of all videos into groups of up to GROUP_FRAMES frames.

    A long video is split over several groups; short videos share one.
    """
    group: list[Wanted] = []
    held = 0
    per_portion = max(1, GROUP_FRAMES // config.data.clip.num_frames)
    for row, video in enumerate(every):
        clips = clips_of(video, config, step_s)
        for portion in np.array_split(clips, math.ceil(len(clips) / per_portion)):
            if held + portion.size > GROUP_FRAMES and group:
                yield group
                group, held = [], 0
            group.append((row, video, portion.ravel()))
            held += portion.size
    if group:
        yield group


def _listed(footage: str, parts: Path) -> tuple[Path, dict[str, str]]:
    """The given manifest, or a new manifest of the given folder, and the folder's unreadable videos with reasons."""
    if footage.endswith(".parquet"):
        return Path(footage), {}
    found = dataset.index_folder(footage, parts / "manifests")
    return Path(found["manifest"]), read_rejects(Path(found["rejects"])) if found["rejects"] else {}


def _reject(rejects: dict[str, str], parts: Path) -> None:
    """Write the rows of the unreadable videos as the last part file."""
    rows = [{"video_id": video_id, "error": " ".join(reason.split())} for video_id, reason in rejects.items()]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), parts / "rejects.parquet")


def _encode(
    model: VideoModel, every: list[Video], parts: Path, step_s: float | None, top_k: int, on_progress: OnProgress
) -> None:
    for partial in parts.glob(".*.partial"):
        partial.unlink()
    groups = list(_groups(every, model.config, step_s))
    left = []
    for group in groups:
        name = _part_name([row for row, *_ in group], np.concatenate([frames for *_, frames in group]))
        if not (parts / name).exists():
            left.append(group)
    done = len(groups) - len(left)
    on_progress(done, len(groups))
    if not left:
        return
    function = EmbedClips(model.config, model.classes, min(top_k, len(model.classes)), every, parts)
    tables = [group_of(group) for group in left]
    for _ in encode_groups(tables, function, model.config, model, len(model.classes), everywhere=True):
        done += 1
        on_progress(done, len(groups))


def _part_name(rows: Any, frames: NDArray[np.int64]) -> str:
    """Name of a part file. The same rows and frames give the same name, and names sort in row order."""
    digest = hashlib.blake2b(json.dumps([list(map(int, rows)), frames.tolist()]).encode(), digest_size=8)
    return f"{int(rows[0]):09d}-{int(frames[0]):09d}-{digest.hexdigest()}.parquet"


def _gather(parts: Path, out: Path) -> Row:
    """Join all part files in order into one file. The file is renamed when it is complete."""
    partial = out.with_name(out.name + ".partial")
    clips, failed = 0, set()
    with contextlib.closing(pq.ParquetWriter(partial, SCHEMA)) as writer:
        for path in sorted(parts.glob("*.parquet")):
            table = pq.read_table(path, schema=SCHEMA)
            failures = table.filter(table.column("error").is_valid())
            failed |= set(failures.column("video_id").to_pylist())
            clips += table.num_rows - failures.num_rows
            writer.write_table(table)
    partial.rename(out)
    return {"clips": clips, "failed_videos": len(failed)}


def _refuse_other(parts: Path, model: VideoModel, manifest: Path, step_s: float | None, top_k: int) -> None:
    """Raise UsageError if the existing part files are from another model, manifest or setting."""
    weights = hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in model.temporal.state_dict().values()))
    what = {
        "model": weights.hexdigest(),
        "manifest": hashlib.sha256(manifest.read_bytes()).hexdigest(),
        "step_s": step_s,
        "top_k": top_k,
    }
    path = parts / "job.json"
    if not path.exists():
        write_whole(path, json.dumps(what))
    differing = [key for key, value in json.loads(path.read_text(encoding="utf-8")).items() if what[key] != value]
    if differing:
        raise UsageError(
            f"--out: {parts} is from a job with another {', '.join(differing)}; remove it, or choose another file name"
        )

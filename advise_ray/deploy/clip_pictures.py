"""Finds the files and the classes of embedded videos, and packs small pictures of their clips into sheets."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from advise_ray.deploy.neighbours import OnProgress
from advise_ray.errors import VideoDecodeError
from advise_ray.storage.remote import join
from advise_ray.video.annotations import read_folder, root_and_file
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.manifest import read_manifest

DEADLINE_S = 60.0
"""Time limit for the pictures of one video, per `CLIPS_AT_ONCE` of them."""
CLIPS_AT_ONCE = 32
SHEET_TILES = 16
"""A sheet has this number of pictures in each row and each column."""
QUALITY = 60


@dataclass(frozen=True)
class Places:
    """Where videos are, by their ids: a path or URL, and the class, if it is known."""

    paths: dict[str, str]
    classes: dict[str, str]


def find_videos(videos: str) -> Places:
    """List a folder, a URL, a video or a manifest, without reading the videos.

    Raises:
        UsageError: it is not there.
    """
    if videos.endswith(".parquet"):
        rows = read_manifest(Path(videos)).select(["video_id", "path", "class_name"]).to_pylist()
        classes = {row["video_id"]: row["class_name"] for row in rows if row["class_name"] is not None}
        return Places({row["video_id"]: row["path"] for row in rows}, classes)
    listing, (root, _) = read_folder(videos), root_and_file(videos)
    classes = {video.path: video.class_name for video in listing.found if video.class_name is not None}
    return Places({video.path: join(root, video.path) for video in listing.found}, classes)


@dataclass(frozen=True)
class Pictures:
    """Pictures of clips.

    Attributes:
        sheets: WebP files in base64. The picture of clip i is tile i % SHEET_TILES² of sheet i // SHEET_TILES².
        width_px, height_px: size of a tile.
        failed: for each video without pictures the reason.
        is_there: bool[n], the clips that have a picture.
    """

    sheets: list[str]
    width_px: int
    height_px: int
    failed: dict[str, str]
    is_there: NDArray[np.bool_]


def take_pictures(
    video_ids: Sequence[str],
    times_s: NDArray[np.float64],
    places: Places,
    width_px: int,
    height_px: int,
    on_progress: OnProgress,
) -> Pictures:
    """Decode a frame for each clip, in one process per core; a video that fails leaves its tiles empty.

    Args:
        video_ids: the video of each clip.
        times_s: float64[n], seconds of the frame in its video.
    """
    by_video: dict[str, list[int]] = {}
    for clip in np.argsort(times_s, kind="stable"):
        by_video.setdefault(video_ids[clip], []).append(int(clip))
    tiles = np.full((len(video_ids), height_px, width_px, 3), 128, np.uint8)
    is_there = np.zeros(len(video_ids), bool)
    failed: dict[str, str] = {}
    decoders: list[DecodeProcess] = []

    def decode(video_id: str) -> None:
        clips = by_video[video_id]
        if video_id not in places.paths:
            failed[video_id] = "no such file"
            return
        path = places.paths[video_id]
        decoder = decoders.pop() if decoders else DecodeProcess(DEADLINE_S)
        try:
            for start in range(0, len(clips), CLIPS_AT_ONCE):
                some = clips[start : start + CLIPS_AT_ONCE]
                size = {"height_px": height_px, "width_px": width_px}
                tiles[some] = decoder.thumbnails(path, times_s[some], name=video_id, **size)
                is_there[some] = True
        except VideoDecodeError as error:
            failed[video_id] = error.reason
        finally:
            decoders.append(decoder)

    done = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        try:
            jobs = {pool.submit(decode, video_id): video_id for video_id in by_video}
            for job in as_completed(jobs):
                job.result()
                done += len(by_video[jobs[job]])
                on_progress(done, len(video_ids))
        finally:
            pool.shutdown(cancel_futures=True)
            for decoder in decoders:
                decoder.close()
    return Pictures(_sheets(tiles), width_px, height_px, failed, is_there)


def _sheets(tiles: NDArray[np.uint8]) -> list[str]:
    """uint8[n, H, W, 3] → WebP files in base64."""
    sheets = []
    per_sheet = SHEET_TILES**2
    for start in range(0, len(tiles), per_sheet):
        some = tiles[start : start + per_sheet]
        rows = -(-len(some) // SHEET_TILES)
        sheet = np.zeros((rows * SHEET_TILES, *tiles.shape[1:]), np.uint8)
        sheet[: len(some)] = some
        _, height, width, _ = tiles.shape
        whole = sheet.reshape(rows, SHEET_TILES, height, width, 3).swapaxes(1, 2)
        file = io.BytesIO()
        image = Image.fromarray(whole.reshape(rows * height, SHEET_TILES * width, 3))
        image.save(file, "WEBP", quality=QUALITY)
        sheets.append(base64.b64encode(file.getvalue()).decode())
    return sheets

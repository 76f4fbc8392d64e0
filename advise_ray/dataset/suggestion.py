"""Chooses the settings of a recipe that fit a manifest's videos, with a reason for each. It opens no video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from advise_ray.config import ClipConfig, DataConfig
from advise_ray.errors import UsageError
from advise_ray.video.manifest import frames_per_video
from advise_ray.video.sampling import LEAST_STRIDE, longest_span_frames
from advise_ray.video.splits import Splits, split_videos

MOST_VIDEOS = 0.8
"""All rates should fit at least this fraction of the videos."""
COMMON_FPS = 15.0
"""Frames per second of a clip at rate 1 if the videos allow it: every second frame of 30 frames/s, as in the paper."""
ACTION_FPS = 4.0
"""Lowest frames per second of a clip that shows an action: 8 frames are then nearly 2 s."""
SAMPLE_FPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 20, 24, 30, 40, 48, 60, 90, 120)
SHAPES: tuple[tuple[int, tuple[float, ...], float], ...] = (
    (8, (1, 2, 4, 8), COMMON_FPS),
    (8, (1, 2, 4), 24),
    (8, (1, 2), 30),
    (4, (1, 2, 4), 30),
    (8, (1, 2, 4), np.inf),
    (4, (1, 2), np.inf),
    (2, (1, 2), np.inf),
)
"""Frames of a clip, playback rates, and the highest `sample_fps` for them. The first that fits most videos is used."""
SIZES_PX = (64, 96, 128, 160)
GPU_SIZES_PX = (*SIZES_PX, 192, 224)
BASES = {"prp": "pretrain_footage", "action": "finetune_footage"}
"""For each task, the shipped recipe that has the values of all other settings."""
FEW_VIDEOS = 4
"""With fewer videos, none is held out for validation."""


@dataclass(frozen=True)
class Choice:
    """Some settings that were chosen together.

    Attributes:
        name: what was chosen, in one word.
        settings: dotted key → value.
        reason: why, in one sentence without a full stop.
    """

    name: str
    settings: dict[str, Any]
    reason: str


def suggest(
    table: pa.Table, task: str, *, most_workers: int = 1, use_gpu: bool = False, epochs: int | None = None
) -> list[Choice]:
    """Choose the settings that depend on the videos: clips, rates, size of frames, batch, epochs.

    The recipe `BASES[task]` has the values of all other settings.

    Args:
        table: a manifest, see `read_manifest`.
        task: `prp` or `action`.
        most_workers: the run may have up to this many workers.
        epochs: number of epochs. None: as many as the base recipe needs for so many videos.

    Raises:
        UsageError: no video is long enough for two playback rates, or there are no training videos.
    """
    frames, fps = frames_per_video(table), table.column("fps").to_numpy()
    clip, fits = _choose_clip(frames, fps, task)
    clip = clip.model_copy(update={"clips_per_video": _clips_per_video(frames / fps, task)})
    data, splits = _choose_validation(table, fits, task)
    return [
        _clips(clip, frames, fps),
        _rates(clip, float(fits.mean()), task),
        _sizes(table, use_gpu),
        _steps(clip, data, splits, most_workers, task, epochs),
    ]


def settings_of(choices: list[Choice], task: str) -> dict[str, Any]:
    """All settings of the choices. Nothing is assumed about a pretrained module."""
    own: dict[str, Any] = {"task": task} | ({"model.init_from": None} if task == "action" else {})
    return own | {key: value for choice in choices for key, value in choice.settings.items()}


def fitting(frames: NDArray[np.int64], fps: NDArray[np.float64], clip: ClipConfig) -> NDArray[np.bool_]:
    """`sampling.fits_every_rate` of many videos, bool[n]. The clip must be sampled by time (`sample_fps`)."""
    assert clip.sample_fps is not None
    strides = fps / clip.sample_fps
    fastest = strides * clip.rates[-1] * (1 + clip.rate_jitter)
    spans = np.floor((clip.num_frames - 1) * fastest + 0.5) + 1
    return (frames >= spans) & (strides * clip.rates[0] >= LEAST_STRIDE)


def _choose_clip(
    frames: NDArray[np.int64], fps: NDArray[np.float64], task: str
) -> tuple[ClipConfig, NDArray[np.bool_]]:
    """The first clip that fits most videos, or else the one that fits the most; and which videos it fits, bool[n]."""
    wanted_fps = COMMON_FPS
    if task == "action":  # half of most videos
        wanted_fps = float(np.clip(2 * 7 / np.quantile(frames / fps, 1 - MOST_VIDEOS), ACTION_FPS, COMMON_FPS))
    own = [np.quantile(fps, 1 - MOST_VIDEOS), np.median(fps), fps[np.argmax(frames)]]
    choices = {*map(float, SAMPLE_FPS), *(float(f"{each:.3g}") for each in own)}
    nearest = sorted(choices, key=lambda each: abs(np.log(each / wanted_fps)))
    best: tuple[ClipConfig, NDArray[np.bool_]] | None = None
    for num_frames, rates, fastest_fps in SHAPES:
        for sample_fps in (each for each in nearest if each <= fastest_fps):
            clip = ClipConfig(num_frames=num_frames, sample_fps=sample_fps, rates=rates)
            played = clip if task == "prp" else clip.model_copy(update={"rates": (1.0,), "rate_jitter": 0.0})
            fits = fitting(frames, fps, played)
            if fits.mean() >= MOST_VIDEOS:
                return clip, fits
            if best is None or fits.sum() > best[1].sum():
                best = clip, fits
    assert best is not None
    if task == "prp" and not best[1].any():
        raise UsageError(
            f"--videos: no video is long enough for two playback rates: the longest has {frames.max()} frames, and "
            "2 frames at rates 1 and 2 take 3"
        )
    return best


def _clips_per_video(durations_s: NDArray[np.float64], task: str) -> int:
    if task == "action":
        return 2
    median_s = np.median(durations_s)
    return 4 if median_s < 60 else 8 if median_s < 240 else 16


def _clips(clip: ClipConfig, frames: NDArray[np.int64], fps: NDArray[np.float64]) -> Choice:
    assert clip.sample_fps is not None
    shortest_s, slowest_fps = np.quantile(frames / fps, 1 - MOST_VIDEOS), np.quantile(fps, 1 - MOST_VIDEOS)
    settings = {
        "data.clip.num_frames": clip.num_frames,
        "data.clip.sample_fps": clip.sample_fps,
        "data.clip.clips_per_video": clip.clips_per_video,
    }
    span_s = (clip.num_frames - 1) / clip.sample_fps
    return Choice(
        "clips",
        settings,
        f"{clip.num_frames} frames at {clip.sample_fps:g} frames/s ({span_s:.2g} s), {clip.clips_per_video} clips per "
        f"video and epoch, because 4 of 5 videos last at least {shortest_s:.3g} s and have at least {slowest_fps:.3g} "
        "frames/s",
    )


def _rates(clip: ClipConfig, fits: float, task: str) -> Choice:
    if task == "action":
        only = "" if fits == 1 else "; in shorter videos the last frame is repeated"
        reason = f"clips play at rate 1; {fits:.0%} of the videos are long enough{only}"
        return Choice("rates", {"data.clip.short_video": "fit"}, reason)
    span_s = longest_span_frames(clip, 1000.0) / 1000.0
    settings = {"data.clip.rates": list(clip.rates), "data.clip.short_video": "fit"}
    names = ", ".join(f"×{rate:g}" for rate in clip.rates)
    share = "all" if fits == 1 else f"{fits:.0%} of the"
    reason = f"{names} fit {share} videos (a clip at ×{clip.rates[-1]:g} takes up to {span_s:.2g} s)"
    if fits < MOST_VIDEOS:
        reason += ", and no other choice fits more: the videos differ too much in length and frame rate"
    if fits < 1:
        reason += "; the others are only trained at the rates that fit, and not used for validation"
    return Choice("rates", settings, reason)


def _sizes(table: pa.Table, use_gpu: bool) -> Choice:
    widths, heights = table.column("width").to_numpy(), table.column("height").to_numpy()
    short_px = int(np.median(np.minimum(widths, heights)))
    sizes_px = GPU_SIZES_PX if use_gpu else SIZES_PX
    px = max((size for size in sizes_px if size <= short_px), default=sizes_px[0])
    settings = {f"augment.{key}": px for key in ("resize_height_px", "resize_width_px", "crop_size_px")}
    settings["model.sfu.spatial_size"] = px // 32
    device = "with a GPU" if use_gpu else "on CPUs"
    why = f"the largest that pays {device}" if px == sizes_px[-1] else "so that few videos are enlarged"
    reason = f"{px}×{px} px of the whole frame, {why}; the short side of the videos is {short_px} px (median)"
    return Choice("frames", settings, reason)


def _choose_validation(table: pa.Table, fits: NDArray[np.bool_], task: str) -> tuple[DataConfig, Splits]:
    """The smallest fraction that holds out enough videos that fit, and the split. Without enough videos: none."""
    val_split = None if task == "action" else "val"
    enough = min(5, 1 + table.num_rows // 10) if table.num_rows >= FEW_VIDEOS else 0
    for fraction in (0.2, 0.3, 0.5) if task == "action" else (0.1, 0.2, 0.3, 0.5):
        data = DataConfig(val_split=val_split, val_fraction=fraction)
        try:
            splits = split_videos(table, data)
        except UsageError:  # all videos are held out; another problem of the splits is raised below
            continue
        if enough and fits[splits.val].sum() >= enough and len(splits.train):
            return data, splits
    data = DataConfig(val_split=None, val_fraction=0.0)
    return data, split_videos(table, data)


def _steps(
    clip: ClipConfig, data: DataConfig, splits: Splits, most_workers: int, task: str, epochs: int | None
) -> Choice:
    """Batch, epochs and validation. A step has as many videos as in the base recipe, or fewer if there are fewer."""
    per_video, num_videos = clip.clips_per_video, len(splits.train)
    usual_videos = min(num_videos, 8 if task == "action" else 12 if per_video == 4 else 64 // per_video)
    videos_per_step = most_workers * max(1, usual_videos // most_workers)
    steps_per_epoch = -(-num_videos // videos_per_step)
    wanted_steps, fewest = (300, 5) if task == "action" else (800, 4)
    if epochs is None:
        epochs = int(np.clip(round(wanted_steps / steps_per_epoch), fewest, 30))
    every = max(1, round(epochs / 5))
    settings: dict[str, Any] = {
        "train.global_batch_size": videos_per_step * per_video,
        **({"train.num_workers": [1, most_workers]} if most_workers > 1 else {}),
        "data.val_split": data.val_split,
        "data.val_fraction": data.val_fraction,
        "train.epochs": epochs,
        "train.val_every_epochs": every,
        "train.checkpoint_every_epochs": every,
        "optim.warmup_epochs": max(0.1, round(epochs / 10, 1)),
    }
    held_out = f" and {len(splits.val):,} for validation" if len(splits.val) else ", too few to hold some out"
    step = f"{videos_per_step * per_video} clips of {_count(videos_per_step, 'video')}"
    reason = (
        f"{_count(epochs, 'epoch')} of {_count(steps_per_epoch, 'step')}, each with {step}, "
        f"for {_count(num_videos, 'training video')}{held_out}"
    )
    return Choice("steps", settings, reason)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")

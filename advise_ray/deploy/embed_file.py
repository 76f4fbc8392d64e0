"""Embeds one video file in this process, with the clips and the numbers that `embed` gives for it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from advise_ray.config import Config, played_clip
from advise_ray.deploy.embed_groups import GROUP_FRAMES, clips_of
from advise_ray.deploy.load import VideoModel
from advise_ray.errors import UsageError
from advise_ray.model.precision import autocast
from advise_ray.video.augment_draws import centre
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.manifest import Video
from advise_ray.video.probe import LIMITS, VideoInfo
from advise_ray.video.sampling import span_frames, stride_frames


def embed_file(
    model: VideoModel, location: str, span_s: tuple[float, float] | None, step_s: float | None
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Embed the clips of a file, or those from the start of a span on.

    A span that is shorter than a clip is extended on both sides to the length of a clip, as far as the video goes.

    Args:
        location: path or URL.
        step_s: see `embed`.

    Returns:
        Embeddings float32[K, E], and start and end of the clips in seconds, float64[K] each.

    Raises:
        VideoDecodeError: the file cannot be decoded.
        UsageError: the span is not in the video.
    """
    config = model.config
    limits = replace(LIMITS, max_pixels=config.data.max_pixels)
    with DecodeProcess(config.data.decode_timeout_s) as decoder:
        info = decoder.probe(location, location, limits)
        video = _video(location, info, span_s, config)
        clips = clips_of(video, config, step_s)
        parts = []
        for part in np.array_split(clips, math.ceil(clips.size / GROUP_FRAMES)):
            frames = decoder.decode(
                location,
                part.ravel(),
                height_px=config.augment.resize_height_px,
                width_px=config.augment.resize_width_px,
                **video.decoding,
            )
            middle = np.ascontiguousarray(centre(frames.reshape(*part.shape, *frames.shape[1:]), config.augment))
            with autocast(config.train.precision, model.device.type):
                parts.append(model.encode(torch.from_numpy(middle)).cpu().numpy())
    return np.concatenate(parts), clips[:, 0] / info.fps, (clips[:, -1] + 1) / info.fps


def _video(location: str, info: VideoInfo, span_s: tuple[float, float] | None, config: Config) -> Video:
    start, end = 0, info.num_frames
    if span_s is not None:
        if span_s[1] * info.fps > info.num_frames + 0.5:
            last_s = f"{info.num_frames / info.fps:.4g} s"
            raise UsageError(f"--like: {location} ends at {last_s}, before the end of {span_s[0]:g}–{span_s[1]:g} s")
        start, end = round(span_s[0] * info.fps), round(span_s[1] * info.fps)
        clip = played_clip(config)
        needed = span_frames(clip.num_frames, max(1.0, stride_frames(clip, info.fps)))
        if (lacking := needed - (end - start)) > 0:
            start = max(0, min(start - lacking // 2, info.num_frames - needed))
            end = start + needed
    return Video(
        video_id=location,
        path=location,
        label=None,
        num_frames=info.num_frames,
        width=info.width,
        height=info.height,
        fps=info.fps,
        decoder=info.decoder,
        stream_index=info.stream_index,
        rotation_deg=info.rotation_deg,
        start_frame=start,
        end_frame=end,
    )

"""`stats`: writes a self-contained HTML page that describes a data set before training."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from advise_ray.config import Config
from advise_ray.dataset.summary import Facts, StatsSummary, counted, describe
from advise_ray.errors import UsageError, VideoDecodeError
from advise_ray.storage.atomic import refuse_unwritable
from advise_ray.video.augment_draws import centre_crop
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.manifest import Video, Videos, frames_per_video, read_manifest
from advise_ray.video.sampling import keyed_rng, plan_val_clips, spans_frames, strides_frames

SHEET_VIDEOS = 4
FRAME_WIDTH_PX = 112
MOST_CLASSES = 60
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em .9em .2em 0; text-align: left; vertical-align: top }
h2 { margin-top: 2em } img { max-width: 100% } .sheet td { padding: 2px 8px 2px 0 } .note { color: #666 }
"""


def write_report(manifest: Path, out: Path, config: Config) -> StatsSummary:
    """Write the page for the clips that `config` samples. The page loads nothing from other files or servers."""
    if out.resolve() == manifest.resolve():
        raise UsageError("--out: this file is the manifest; give another file name")
    refuse_unwritable(out, "--out")
    table = read_manifest(manifest)
    facts: Facts = {
        "videos": table.num_rows,
        "classes": pc.count_distinct(table.column("class_name"), mode="only_valid").as_py(),
        "splits": _counts(table, "split"),
        **describe(table),
        "rate_fits_fraction": rate_fits_fraction(table, config),
    }
    sections = [
        ("Facts", _facts_table(facts)),
        ("Durations", _histogram(np.asarray(table.column("duration_s"), dtype=float), "seconds")),
        ("Frames per second", _bars(facts["fps"], "frames/s")),
        ("Sizes", _bars(facts["sizes_px"], "width × height, px")),
        (_classes_title(facts["classes"]), _bars(_class_balance(table), "videos", across=True)),
        ("Playback rates that fit", _rates(facts["rate_fits_fraction"], config)),
        ("Clips as the model sees them", _sheets(table, config)),
    ]
    body = "".join(f"<h2>{html.escape(title)}</h2>\n{content}\n" for title, content in sections)
    title = html.escape(manifest.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"</head>\n<body><h1>{title}</h1>\n{body}</body></html>\n",
        encoding="utf-8",
    )
    return {"report": str(out), **facts}


def rate_fits_fraction(table: pa.Table, config: Config) -> dict[str, float]:
    """For each rate, the fraction of videos that are long enough for a clip at this rate with the fastest jitter."""
    clip = config.data.clip
    lengths, fps = frames_per_video(table), table.column("fps").to_numpy()
    strides = strides_frames(clip, fps)
    shares = {}
    for rate in clip.rates:
        spans = spans_frames(clip.num_frames, np.maximum(1.0, strides * rate * (1 + clip.rate_jitter)))
        shares[f"{rate:g}"] = round(float(np.mean(lengths >= spans)), 4)
    return shares


def _counts(table: pa.Table, column: str) -> dict[str, int]:
    counts = counted(table.column(column))
    return dict(sorted(("none" if value is None else value, count) for value, count in counts.items()))


def _classes_title(num_classes: int) -> str:
    return "Classes" if num_classes <= MOST_CLASSES else f"Classes: the {MOST_CLASSES} largest of {num_classes}"


def _class_balance(table: pa.Table) -> dict[str, int]:
    return dict(counted(table.column("class_name").drop_null()).most_common(MOST_CLASSES))


def _facts_table(facts: Facts) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{html.escape(str(name))}: {inner}" for name, inner in value.items()) or "none"
        return html.escape(str(value))

    rows = "".join(f"<tr><th>{name.replace('_', ' ')}</th><td>{cell(value)}</td></tr>" for name, value in facts.items())
    return f"<table>{rows}</table>"


def _rates(shares: dict[str, float], config: Config) -> str:
    clip = config.data.clip
    how = f"stride {clip.frame_stride}" if clip.sample_fps is None else f"{clip.sample_fps:g} frames/s"
    note = f"Fraction of videos that are long enough for a clip of {clip.num_frames} frames at {how}, for each rate."
    return f'<p class="note">{note}</p>{_bars(shares, "fraction of videos")}'


def _bars(counts: Mapping[str, float], label: str, *, across: bool = False) -> str:
    if not counts:
        return '<p class="note">none</p>'

    def draw(axes: Any) -> None:
        names, values = [str(name)[:40] for name in counts], list(counts.values())
        if across:
            axes.barh(range(len(names)), values)
            axes.set_yticks(range(len(names)), names, fontsize=7)
            axes.invert_yaxis()
        else:
            axes.bar(names, values)
        axes.set_xlabel(label)

    return _figure(draw, height_in=max(2.2, 0.16 * len(counts)) if across else 2.2)


def _histogram(values: NDArray[np.float64], label: str) -> str:
    def draw(axes: Any) -> None:
        axes.hist(values, bins=40)
        axes.set_xlabel(label)
        axes.set_ylabel("videos")

    return _figure(draw, height_in=2.2)


def _figure(draw: Callable[[Any], None], height_in: float) -> str:
    from matplotlib.figure import Figure  # pyplot would keep global state and need a display

    figure = Figure(figsize=(8, height_in), layout="constrained")
    draw(figure.add_subplot())
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return _image(png.getvalue(), "png")


def _image(content: bytes, kind: str) -> str:
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'


def _sheets(table: pa.Table, config: Config) -> str:
    """A row of frames at every rate for a few videos: the longest ones of a random selection."""
    lengths = frames_per_video(table)
    picked = keyed_rng(config.seed, "sheet").permutation(table.num_rows)[: 8 * SHEET_VIDEOS]
    longest = sorted(picked, key=lambda row: -lengths[row])[:SHEET_VIDEOS]
    every = Videos(table)
    with DecodeProcess(config.data.decode_timeout_s) as decoder:
        return "".join(_sheet(every[row], config, decoder) for row in longest)


def _sheet(video: Video, config: Config, decoder: DecodeProcess) -> str:
    clip, size = config.data.clip, config.augment
    rows = []
    try:
        for planned in plan_val_clips(len(video.frames), clip, 1, keyed_rng(config.seed, video.video_id), video.fps):
            frames = decoder.decode(
                video.path,
                planned.frame_indices + video.frames.start,
                height_px=size.resize_height_px,
                width_px=size.resize_width_px,
                **video.decoding,
            )
            top, left, height, width = centre_crop(size)[:4].astype(int)
            cropped = frames[:, top : top + height, left : left + width]
            rate = f"× {clip.rates[planned.rate_index]:g}"
            rows.append(f"<tr><th>{rate}</th><td>{_strip(cropped)}</td></tr>")
    except VideoDecodeError as error:
        rows.append(f"<tr><td>{html.escape(error.reason)}</td></tr>")
    return f'<p>{html.escape(video.video_id)}</p><table class="sheet">{"".join(rows)}</table>'


def _strip(frames: NDArray[np.uint8]) -> str:
    """Joins the frames uint8[T, H, W, 3] side by side into one image."""
    image = Image.fromarray(np.concatenate(list(frames), axis=1))
    width = FRAME_WIDTH_PX * len(frames)
    jpeg = io.BytesIO()
    image.resize((width, round(image.height * width / image.width))).save(jpeg, "JPEG", quality=80)
    return _image(jpeg.getvalue(), "jpeg")

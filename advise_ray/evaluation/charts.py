"""Figures of a protocol's results as PNG files: confusion matrix, accuracy per class, most confident mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from advise_ray.config import Config
from advise_ray.errors import VideoDecodeError
from advise_ray.evaluation.metrics import class_accuracies
from advise_ray.video.augment_draws import centre
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.manifest import Video

MOST_NAMED, MOST_NUMBERED = 60, 20
"""Maximum number of classes whose names are shown on an axis, and whose counts are shown in the matrix cells."""
DPI = 110


@dataclass(frozen=True)
class Mistake:
    """A misclassified clip: int64[T] frames of a video, and a caption with the true and the predicted class."""

    video: Video
    frame_indices: NDArray[np.int64]
    caption: str


def confusion(path: Path, counts: NDArray[np.int64], names: Sequence[str], title: str) -> None:
    """Draw the confusion matrix. Each row sums to 1: the fractions of a true class that got each prediction."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side_in = 4.0 + 0.16 * min(len(names), MOST_NAMED)

    def draw(axes: Any) -> None:
        image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        axes.figure.colorbar(image, ax=axes, shrink=0.8, label="fraction of the true class")
        axes.set(xlabel="prediction", ylabel="true", title=title)
        if len(names) <= MOST_NAMED:
            axes.set_xticks(range(len(names)), _short(names), rotation=90, fontsize=7)
            axes.set_yticks(range(len(names)), _short(names), fontsize=7)
        if len(names) <= MOST_NUMBERED:
            for (row, column), count in np.ndenumerate(counts):
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)

    _save(path, draw, (side_in, side_in * 0.9))


def class_bars(path: Path, counts: NDArray[np.int64], names: Sequence[str], title: str) -> None:
    """Draw the accuracy of each class, the best class first."""
    accuracies = class_accuracies(counts)
    order = sorted(np.flatnonzero(~np.isnan(accuracies)).tolist(), key=lambda index: -accuracies[index])

    def draw(axes: Any) -> None:
        axes.barh(range(len(order)), accuracies[order])
        axes.set_yticks(range(len(order)), _short([names[index] for index in order]), fontsize=7)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel="accuracy", title=title)

    _save(path, draw, (7, 1.2 + 0.18 * len(order)))


def contact_sheet(path: Path, mistakes: Sequence[Mistake], config: Config, title: str) -> None:
    """Draw a row of frames for each mistake, in the centre crop that the model sees."""
    rows = []
    with DecodeProcess(config.data.decode_timeout_s) as decoder:
        for mistake in mistakes:
            try:
                rows.append((mistake.caption, _strip(mistake, config, decoder)))
            except VideoDecodeError:  # the file has changed since the evaluation; draw the other mistakes
                continue
    if not rows:
        return
    figure = Figure(figsize=(1.1 * config.data.clip.num_frames, 1.5 * len(rows)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    for axes, (caption, strip) in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows, strict=True):
        axes.imshow(strip)
        axes.set_title(caption, fontsize=7, loc="left")
        axes.axis("off")
    figure.savefig(path, dpi=DPI)


def _strip(mistake: Mistake, config: Config, decoder: DecodeProcess) -> NDArray[np.uint8]:
    """Decode a mistake's frames and join them side by side: uint8[size, T × size, 3]."""
    video, size = mistake.video, config.augment
    frames = decoder.decode(
        video.path,
        mistake.frame_indices,
        height_px=size.resize_height_px,
        width_px=size.resize_width_px,
        **video.decoding,
    )
    return np.concatenate(list(centre(frames, size)), axis=1)


def _save(path: Path, draw: Callable[[Any], None], size_in: tuple[float, float]) -> None:
    figure = Figure(figsize=size_in, layout="constrained")  # pyplot would keep global state and need a display
    draw(figure.add_subplot())
    figure.savefig(path, dpi=DPI)


def _short(names: Sequence[str]) -> list[str]:
    return [name if len(name) <= 40 else name[:39] + "…" for name in names]

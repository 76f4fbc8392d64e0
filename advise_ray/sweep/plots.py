"""The pictures of a sweep: what a setting does to accuracy, time and memory (paper, figures 3 to 5); for searches their
history and which settings mattered."""

from __future__ import annotations

import json
import logging
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advise_ray.config import Config
from advise_ray.model.catalogue import imagenet_percent
from advise_ray.sweep.optuna_search import as_study
from advise_ray.sweep.table import Row, is_number

log = logging.getLogger("advise_ray")

ASIDE = ("seed", "data.manifest")
"""Keys that are no axis: deviations are over seeds, and each data set is a line."""
PANELS = {
    "delta_acc": "ΔAcc",
    "acc_ft": "Acc_ft",
    "acc_scratch": "Acc from scratch",
    "linear/top1": "linear probe, top-1",
    "knn/top1": "nearest neighbours, top-1",
    "val/top1": "PRP, validation top-1",
}
COSTS = {"train_s": ("training time, s", 1.0), "peak_bytes": ("peak memory, MiB", 2.0**20)}
DPI = 120


@dataclass(frozen=True)
class Axis:
    """Where the values of a searched key stand in a picture.

    Attributes:
        levels: values as JSON, in their order.
        places: of each; numbers that mean something, or 0, 1, 2, …
    """

    key: str
    levels: list[str]
    places: list[float]
    title: str


def draw(config: Config, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Every figure that the finished trials allow."""
    folder.mkdir(exist_ok=True)
    metric = config.tune.judged_by
    finished = [row for row in rows if row["status"] == "FINISHED"]
    judged = [row for row in finished if is_number(row["values"].get(metric))]
    drawn = []
    for key in (key for key in config.search if key not in ASIDE):
        having = [row for row in finished if key in row["settings"]]
        if len({_level(row, key) for row in having}) > 1:
            drawn.append(folder / f"{key}.png")
            axis = axis_of(config, having, key)
            response(drawn[-1], having, axis, [metric, *(name for name in PANELS if name != metric)])
    if config.tune.searcher != "grid" and len(judged) > 2:
        drawn += _searched(judged, metric, config.tune.mode, folder)
    return drawn


def axis_of(config: Config, rows: Sequence[Row], key: str) -> Axis:
    """Image models stand by their strength (paper, figure 1b) where that of each is known, other values evenly."""
    levels = sorted({_level(row, key) for row in rows}, key=_order)
    evenly = Axis(key, levels, list(map(float, range(len(levels)))), key)
    if key != "model.ifm.name":
        return evenly
    of_row = {_level(row, key): row["settings"].get("model.ifm.weights", config.model.ifm.weights) for row in rows}
    strengths = {level: imagenet_percent(json.loads(level), weights) for level, weights in of_row.items()}
    known = {level: percent for level, percent in strengths.items() if percent is not None}
    if len(known) < len(levels):
        return evenly
    levels.sort(key=known.__getitem__)
    return Axis(key, levels, [known[level] for level in levels], f"{key}, by ImageNet top-1 in %")


def response(path: Path, rows: Sequence[Row], axis: Axis, metrics: Sequence[str]) -> None:
    """Mean and deviation of each metric at each value, a line for each data set; time and memory beside it."""
    shown = [name for name in metrics if any(is_number(row["values"].get(name)) for row in rows)]
    shown.sort(key=lambda name: list(PANELS).index(name) if name in PANELS else len(PANELS))
    panels = [(name, PANELS.get(name, name), 1.0) for name in shown[:2]]
    panels += [(name, *COSTS[name]) for name in COSTS]
    lines = -(-len(panels) // 2)
    figure = Figure(figsize=(9.0, 2.9 * lines), dpi=DPI, layout="constrained")
    grid = figure.subplots(lines, 2, squeeze=False).T.flatten()  # accuracies on the left, costs on the right
    for place, (name, title, unit) in zip(grid, panels, strict=False):
        for data_set, of_set in sorted(_by_data_set(rows).items()):
            _line(place, of_set, axis, name, unit, data_set)
        place.set(title=title, xlabel=axis.title)
        ticks = [_shown(level) for level in axis.levels]
        if axis.title != axis.key:
            ticks = [f"{tick}\n{at:g}" for tick, at in zip(ticks, axis.places, strict=True)]
        place.set_xticks(axis.places, ticks, fontsize=8)
        place.grid(alpha=0.3)
    if len(_by_data_set(rows)) > 1:
        grid[0].legend(fontsize=8)
    for place in grid[len(panels) :]:
        place.set_axis_off()
    figure.savefig(path)


def _line(axes: Axes, rows: Sequence[Row], axis: Axis, name: str, unit: float, label: str) -> None:
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if is_number(row["values"].get(name)):
            values[_level(row, axis.key)].append(row["values"][name] / unit)
    places = [at for level, at in zip(axis.levels, axis.places, strict=True) if level in values]
    measured = [values[level] for level in axis.levels if level in values]
    means = [np.mean(each) for each in measured]
    deviations = [float(np.std(each, ddof=1)) if len(each) > 1 else 0.0 for each in measured]
    axes.errorbar(places, means, yerr=deviations, marker="o", capsize=3, label=label)


def _by_data_set(rows: Sequence[Row]) -> dict[str, list[Row]]:
    sets: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        sets[_names(row["settings"].get("data.manifest"))].append(row)
    return sets


def _names(manifest: str | Sequence[str] | None) -> str:
    paths = [manifest] if isinstance(manifest, str) else manifest or []
    return "+".join(Path(path).stem for path in paths)


def _level(row: Row, key: str) -> str:
    value = row["settings"][key]
    return json.dumps(float(f"{value:.3g}") if isinstance(value, float) else value)


def _order(level: str) -> tuple[float, str]:
    """Numbers ascending, then the rest as written; null, which keeps all there is, behind the numbers."""
    value = json.loads(level)
    return (float(value), "") if is_number(value) else (float("inf"), level)


def _shown(level: str) -> str:
    value = json.loads(level)
    return "all" if value is None else str(value).rpartition(":")[2][:24]


def _searched(rows: Sequence[Row], metric: str, mode: str, folder: Path) -> list[Path]:
    """Optuna's: the best so far, trial by trial, and the importance of the settings."""
    from optuna.visualization import matplotlib as optuna_figures

    study = as_study(list(rows), metric, mode)
    drawn = []
    figures: dict[str, Any] = {
        "history": optuna_figures.plot_optimization_history,
        "importance": optuna_figures.plot_param_importances,
    }
    for name, plot in figures.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its own: experimental
                axes = plot(study, target_name=metric)
        except Exception as error:  # all trials alike, say; a picture less is no reason to lose the rest
            log.warning("note: no figure of the %s: %s", name, error)
            continue
        axes.figure.set_layout_engine("constrained")
        drawn.append(folder / f"{name}.png")
        axes.figure.savefig(drawn[-1], dpi=DPI)
    return drawn

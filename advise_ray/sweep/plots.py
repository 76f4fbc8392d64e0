"""Figures of a sweep: accuracy, time and memory against a setting (paper, figures 3 to 5). For searches also Optuna's
history and the importance of the settings."""

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
from advise_ray.sweep.trial_result import TrialResult, is_number

log = logging.getLogger("advise_ray")

ASIDE = ("seed", "data.manifest")
"""Keys that get no figure: deviations are computed over seeds, and each data set is one line."""
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
    """Positions of a searched key's values on the x axis.

    Attributes:
        levels: values as JSON, in order.
        places: x position of each level: a meaningful number, or 0, 1, 2, …
    """

    key: str
    levels: list[str]
    places: list[float]
    title: str


def draw(config: Config, rows: Sequence[TrialResult], folder: Path) -> list[Path]:
    """Draw every figure for which there are enough finished trials, and return the paths."""
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


def axis_of(config: Config, rows: Sequence[TrialResult], key: str) -> Axis:
    """The x axis of a key, with evenly spaced values.

    Image models are placed by their ImageNet accuracy instead if it is known for all of them (paper, figure 1b).
    """
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


def response(path: Path, rows: Sequence[TrialResult], axis: Axis, metrics: Sequence[str]) -> None:
    """Draw each metric's mean and deviation at each value, one line per data set, and time and memory next to it."""
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


def _line(axes: Axes, rows: Sequence[TrialResult], axis: Axis, name: str, unit: float, label: str) -> None:
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if is_number(row["values"].get(name)):
            values[_level(row, axis.key)].append(row["values"][name] / unit)
    places = [at for level, at in zip(axis.levels, axis.places, strict=True) if level in values]
    measured = [values[level] for level in axis.levels if level in values]
    means = [np.mean(each) for each in measured]
    deviations = [float(np.std(each, ddof=1)) if len(each) > 1 else 0.0 for each in measured]
    axes.errorbar(places, means, yerr=deviations, marker="o", capsize=3, label=label)


def _by_data_set(rows: Sequence[TrialResult]) -> dict[str, list[TrialResult]]:
    sets: dict[str, list[TrialResult]] = defaultdict(list)
    for row in rows:
        sets[_names(row["settings"].get("data.manifest"))].append(row)
    return sets


def _names(manifest: str | Sequence[str] | None) -> str:
    paths = [manifest] if isinstance(manifest, str) else manifest or []
    return "+".join(Path(path).stem for path in paths)


def _level(row: TrialResult, key: str) -> str:
    value = row["settings"][key]
    return json.dumps(float(f"{value:.3g}") if isinstance(value, float) else value)


def _order(level: str) -> tuple[float, str]:
    """Sort key: numbers ascending, then other values as text. `null`, which keeps all channels, sorts last."""
    value = json.loads(level)
    return (float(value), "") if is_number(value) else (float("inf"), level)


def _shown(level: str) -> str:
    value = json.loads(level)
    return "all" if value is None else str(value).rpartition(":")[2][:24]


def _searched(rows: Sequence[TrialResult], metric: str, mode: str, folder: Path) -> list[Path]:
    """Draw Optuna's figures: the best value so far, trial by trial, and the importance of the settings."""
    from optuna.visualization import matplotlib as optuna_figures

    study = as_study(rows, metric, mode)
    drawn = []
    figures: dict[str, Any] = {
        "history": optuna_figures.plot_optimization_history,
        "importance": optuna_figures.plot_param_importances,
    }
    for name, plot in figures.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna warns that these figures are experimental
                axes = plot(study, target_name=metric)
        except Exception as error:  # for example, all trials have equal values; draw the other figures
            log.warning("note: cannot draw the figure %r: %s", name, error)
            continue
        axes.figure.set_layout_engine("constrained")
        drawn.append(folder / f"{name}.png")
        axes.figure.savefig(drawn[-1], dpi=DPI)
    return drawn

"""Results of an experiment: values with confidence intervals, a Markdown table, and one figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from advise_ray.experiment.bootstrap import Correct, Interval, mean_over_sets, paired
from advise_ray.experiment.repeats import SCRATCH, Experiment, Results
from advise_ray.experiment.rival import Lap

BASELINES = (("linear", "mean"), ("linear", "change"), ("knn", "mean"), ("retrieval", "mean"))
Tests = dict[str, dict[int, Correct]]


class Accuracies(TypedDict):
    """The accuracy of an arm, or a difference of two accuracies.

    Attributes:
        sets: name of the set → interval.
        all: mean over the sets.
        all_and_other_sets: the same with a wider interval, which also covers new data sets.
    """

    sets: dict[str, Interval]
    all: Interval
    all_and_other_sets: Interval


class Summary(TypedDict):
    """All results of an experiment: the content of `delta.json`, which also has `wall_s` and `rival`.

    Attributes:
        seeds: number of seeds.
        lr: arm → learning rate of the fine-tuning.
        acc_ft: arm and its number of labels → accuracy after fine-tuning.
        delta_acc: the same without `scratch` → difference to `scratch`, paired video by video.
        probes: protocol and its arm → accuracy.
        pretext: arm → set → mean PRP top-1 over seeds: `top1`, and `control/shuffled` with shuffled frames.
    """

    seeds: int
    lr: dict[str, float]
    acc_ft: dict[str, Accuracies]
    delta_acc: dict[str, Accuracies]
    probes: dict[str, Accuracies]
    pretext: dict[str, dict[str, dict[str, float]]]


def summarise(experiment: Experiment, results: Results, lrs: Mapping[str, float]) -> Summary:
    """Compute all results, for every set and over all sets."""
    acc_ft, delta_acc = {}, {}
    for labels in experiment.labels:
        scratch = results.of("finetuned", SCRATCH, experiment.seeds, labels)
        for arm in experiment.arms:
            tests = results.of("finetuned", arm, experiment.seeds, labels)
            acc_ft[_name(arm, labels)] = _accuracies(tests)
            if arm != SCRATCH:
                delta_acc[_name(arm, labels)] = _accuracies(
                    {name: {seed: paired(of[seed], scratch[name][seed]) for seed in of} for name, of in tests.items()}
                )
    probed = [*BASELINES, *((protocol, arm) for protocol in ("knn", "retrieval") for arm in experiment.pretrained)]
    return Summary(
        seeds=experiment.seeds,
        lr=dict(lrs),
        acc_ft=acc_ft,
        delta_acc=delta_acc,
        probes={f"{which}, {arm}": _accuracies(results.of(which, arm, experiment.seeds)) for which, arm in probed},
        pretext={arm: _pretext(results.of("pretext", arm, experiment.seeds)) for arm in experiment.pretrained},
    )


def _accuracies(tests: Tests) -> Accuracies:
    return Accuracies(
        sets={name: mean_over_sets({name: of}) for name, of in tests.items()},
        all=mean_over_sets(tests),
        all_and_other_sets=mean_over_sets(tests, over_sets=True),
    )


def _pretext(tests: Tests) -> dict[str, dict[str, float]]:
    """Set → mean PRP top-1 over seeds, honest and with shuffled frames. Sets with too short videos are left out."""
    return {
        name: {
            figure: float(np.mean([test[figure] for test in of.values()])) for figure in ("top1", "control/shuffled")
        }
        for name, of in tests.items()
        if all("top1" in test for test in of.values())
    }


def _name(arm: str, labels: int | None) -> str:
    return arm if labels is None else f"{arm}, {labels} labels a class"


def as_table(summary: Summary, sets: Sequence[str]) -> str:
    """Format the results as a Markdown table of means with their 95 % intervals."""
    head = ["result", *sets, "mean over sets", "mean, new sets"]
    lines = [_row(head), _row(["---"] * len(head))]
    for title, found in (("Acc_ft", summary["acc_ft"]), ("ΔAcc", summary["delta_acc"]), ("", summary["probes"])):
        for name, of in found.items():
            intervals = [*(of["sets"][each] for each in sets), of["all"], of["all_and_other_sets"]]
            shown = [_shown(interval, signed=title == "ΔAcc") for interval in intervals]
            lines.append(_row([f"{title}: {name}" if title else name, *shown]))
    for arm, top1 in summary["pretext"].items():
        shown = [
            f"{top1[each]['top1']:.3f} ({top1[each]['control/shuffled']:.3f})" if each in top1 else "–" for each in sets
        ]
        lines.append(_row([f"PRP top-1 (shuffled): {arm}", *shown, "", ""]))
    rates = ", ".join(f"{arm} {lr:g}" for arm, lr in summary["lr"].items())
    return "\n".join([*lines, "", f"Number of seeds: {summary['seeds']}. Learning rates: {rates}.", ""])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(interval: Interval, *, signed: bool) -> str:
    sign = "+" if signed else ""
    return f"{interval['mean']:{sign}.3f} [{interval['low']:{sign}.3f}, {interval['high']:{sign}.3f}]"


def draw(summary: Summary, experiment: Experiment, path: Path) -> None:
    """Draw ΔAcc of each set with all labels, and the mean accuracy over sets against the labels per class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_deltas(left, summary, experiment)
    _draw_accuracies(right, summary, experiment)
    figure.savefig(path, dpi=120)


def _draw_deltas(axes: Any, summary: Summary, experiment: Experiment) -> None:
    sets = [each.name for each in experiment.sets]
    for number, arm in enumerate(experiment.arms):
        if arm != SCRATCH:
            found = summary["delta_acc"][_name(arm, experiment.labels[-1])]
            _errors(axes, number, [*(found["sets"][each] for each in sets), found["all"]], label=arm)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xticks(range(len(sets) + 1), [*sets, "mean"])
    axes.set_ylabel("ΔAcc, 95 % interval")
    axes.set_title("Gain from pretraining")


def _draw_accuracies(axes: Any, summary: Summary, experiment: Experiment) -> None:
    for number, arm in enumerate(experiment.arms):
        found = [summary["acc_ft"][_name(arm, labels)]["all"] for labels in experiment.labels]
        _errors(axes, number, found, label=arm, linestyle="-")
    for (protocol, what), style in zip(BASELINES[:2], ("--", ":"), strict=True):
        mean = summary["probes"][f"{protocol}, {what}"]["all"]["mean"]
        axes.axhline(mean, color="grey", linestyle=style, label=f"linear probe, {what}")
    axes.set_xticks(range(len(experiment.labels)), [str(labels or "all") for labels in experiment.labels])
    axes.set_xlabel("labelled videos per class")
    axes.set_ylabel("accuracy, mean over sets")
    axes.set_title("After fine-tuning")
    axes.legend(fontsize="small")


def _errors(axes: Any, number: int, intervals: Sequence[Interval], *, label: str, linestyle: str = "") -> None:
    """Draw the intervals of arm `number` in its own colour, shifted a little to the right of the previous arm."""
    means = np.asarray([each["mean"] for each in intervals])
    below = means - [each["low"] for each in intervals]
    above = [each["high"] for each in intervals] - means
    style = {"marker": "o", "capsize": 3, "color": f"C{number}", "linestyle": linestyle, "label": label}
    axes.errorbar(np.arange(len(means)) + 0.06 * number, means, yerr=np.stack([below, above]).clip(0), **style)


def figures(summary: Summary, laps: Sequence[Lap]) -> Iterator[tuple[str, float]]:
    """Yield metric names and values for MLflow."""
    kinds = {"acc_ft": summary["acc_ft"], "delta_acc": summary["delta_acc"], "probes": summary["probes"]}
    for kind, found in kinds.items():
        for name, of in found.items():
            for which, interval in ({"all": of["all"]} | of["sets"]).items():
                yield f"{kind}/{name}/{which}".replace(",", "").replace(" ", "_"), interval["mean"]
    for lap in laps:
        name = f"rival/{lap.name}/{lap.set}".replace(",", "").replace(" ", "_")
        yield f"{name}/acc_ft", lap.acc_ft
        yield f"{name}/wall_s", lap.wall_s

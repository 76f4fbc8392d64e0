"""Writes an HTML page that shows one run, compares several runs, or lists all runs of a folder.

    python jobs/report.py runs                                       # writes runs/index.html
    python jobs/report.py runs/second                                # writes runs/second/report.html
    python jobs/report.py runs/second runs/third --out report.html

The page of a run has results, curves and settings. It contains its images, so it can be sent as a single file. The list
has a row for each run and each trial of a sweep. A click on a column sorts it.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any, NoReturn

import matplotlib as mpl
import yaml

from advise_ray.storage.atomic import write_whole
from advise_ray.storage.jsonl import read_lines
from advise_ray.training import checkpoint
from advise_ray.training.status import state

mpl.use("Agg")
import matplotlib.pyplot as plt

Row = dict[str, Any]
CURVES = ("train/loss", "train/epoch_top1", "val/top1", "val/loss", "rate/clips_per_s", "rate/data_wait_fraction")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
td.best { font-weight: 600 }
img { max-width: 100% }
code { background: #f4f4f4; padding: 0 .2rem }
.list th { cursor: pointer; white-space: nowrap } .list td { white-space: nowrap } body:has(.list) { max-width: none }
"""
SORT = """
for (const [column, head] of document.querySelectorAll('th').entries()) head.onclick = () => {
  const body = document.querySelector('tbody'), down = head.dataset.down = head.dataset.down === '1' ? '0' : '1'
  const key = row => row.cells[column].dataset.key, sign = down === '1' ? -1 : 1
  const compare = (a, b) => a === b ? 0 : a === '' ? 1 : b === '' ? -1
    : sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b)  // empty cells stay last
  body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))))
}
"""


def _refuse(reason: str) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr)
    raise SystemExit(2)


class Run:
    """The content of a run directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if not (directory / "config.yaml").is_file():
            _refuse(f"{directory} is not a run directory (it has no config.yaml)")
        self.config = dict(_flat(yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))))
        result = directory / "result.json"
        self.result: Row = {"metrics": {}}
        if result.exists():
            self.result |= json.loads(result.read_text(encoding="utf-8"))
        self.result["status"] = _status(directory)
        self.lines = read_lines(directory / "metrics.jsonl")
        self.evaluations = {
            path.parent.name: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(directory.glob("evaluation/*/result.json"))
        }

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.directory.name

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric."""
        points = [(line["step"], line["values"][metric]) for line in self.lines if metric in line["values"]]
        return [step for step, _ in points], [value for _, value in points]


def index(folder: Path) -> str:
    """The page that lists all runs of a folder, newest first."""
    directories = [path.parent for pattern in ("*", "*/trials/*") for path in folder.glob(f"{pattern}/config.yaml")]
    if not directories:
        _refuse(f"{folder} has no runs (folders with a config.yaml), and is not a run itself")
    rows = sorted((_row(directory, folder) for directory in directories), key=lambda row: row["started"][1])[::-1]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(_cell(*row.get(column, ('', ''))) for column in columns)}</tr>" for row in rows)
    title = html.escape(f"{len(rows)} runs in {folder.resolve()}")
    return (
        f"<!doctype html><meta charset='utf-8'><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
        f"<table class=list><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><script>{SORT}</script>"
    )


def _cell(shown: str, key: Any) -> str:
    return f'<td data-key="{html.escape(str(key))}">{shown}</td>'


def _row(directory: Path, folder: Path) -> dict[str, tuple[str, Any]]:
    """A row of the list: column → (HTML of the cell, value to sort by). A damaged run has few columns."""
    place = directory.relative_to(folder).as_posix()
    address = html.escape(urllib.parse.quote(place))
    report = f' <a href="{address}/report.html">report</a>' if (directory / "report.html").is_file() else ""
    named = {"run": (f'<a href="{address}/">{html.escape(place)}</a>{report}', place)}
    try:
        run = Run(directory)
        times_s = [line["time_s"] for line in run.lines if "time_s" in line]
        started_s = min(times_s, default=(directory / "config.yaml").stat().st_mtime)
        values = _values(run)
        cells = {column: (_text(value), "" if value is None else value) for column, value in values.items()}
        return named | {"started": _moment(started_s)} | cells
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        written_s = (directory / "config.yaml").stat().st_mtime
        return named | {"started": _moment(written_s), "status": (f"damaged ({type(error).__name__})", "damaged")}


def _values(run: Run) -> Row:
    """The state of a run, its model, and the metrics of its last epoch."""
    config, last = run.config, {name: value for line in run.lines for name, value in line["values"].items()}
    last |= _of_trial(run)
    model = [config.get(f"model.{key}") for key in ("ifm.name", "tmm.arch", "tmm.num_blocks")]
    return {
        "status": run.result["status"],
        "task": config.get("task"),
        "model": "r3d50" if config.get("model.kind") == "r3d50" else " ".join(map(str, model)),
        "val/top1": last.get("val/top1"),
        "chance": _chance(run),
        "acc_ft": last.get("acc_ft"),
        "loss": last.get("train/epoch_loss", last.get("train/loss")),
        "epochs": max((line["epoch"] + 1 for line in run.lines), default=None),
        "clips/s": last.get("rate/clips_per_s"),
    }


def _of_trial(run: Run) -> Row:
    """The last values of a trial, or of the best trial of a sweep."""
    trial = run.directory / "trial.json"
    of_trial = json.loads(trial.read_text(encoding="utf-8")) if trial.exists() else run.result.get("best")
    return dict((of_trial or {}).get("values", {}))


def _chance(run: Run) -> float | None:
    """The accuracy of guessing."""
    if run.config.get("task") == "prp":
        return 1 / len(run.config["data.clip.rates"])
    last = checkpoint.latest(run.directory)
    classes = checkpoint.read_state(last).classes if last is not None else []
    return 1 / len(classes) if classes else None


def _status(directory: Path) -> str:
    """The status of a run, a sweep or a trial. A trial that has not ended goes on as long as its sweep does."""
    if (trial := directory / "trial.json").exists():
        return str(json.loads(trial.read_text(encoding="utf-8"))["status"])
    if not (directory / "settings.json").exists():
        return state(directory)[0]
    of_sweep = state(directory.parents[1])[0]
    return of_sweep if of_sweep in ("RUNNING", "SILENT") else "KILLED"


def _moment(time_s: float) -> tuple[str, float]:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_s)), time_s


def page(runs: list[Run]) -> str:
    """The complete HTML page."""
    title = "Run " + runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    parts = [f"<h1>{html.escape(title)}</h1>", _outcomes(runs), _pictures(runs)]
    if any(run.evaluations for run in runs):
        parts += ["<h2>Evaluations</h2>", _evaluations(runs)]
    parts += ["<h2>Settings</h2>" if len(runs) == 1 else "<h2>Settings that differ</h2>", _settings(runs)]
    head = f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{STYLE}</style>"
    return head + "".join(parts)


def _outcomes(runs: list[Run]) -> str:
    keys = ("status", "epochs", "steps", "clips_seen", "failed_videos", "bound_by", "wall_s")
    rows = [[key.replace("_", " "), *(run.result.get(key) for run in runs)] for key in keys]
    names = sorted({name for run in runs for name in run.result["metrics"]})
    rows += [[name, *(run.result["metrics"].get(name) for run in runs)] for name in names]
    return _table(["", *(run.name for run in runs)], rows, marks_best=len(runs) > 1)


def _evaluations(runs: list[Run]) -> str:
    rows: list[list[Any]] = []
    for protocol in sorted({name for run in runs for name in run.evaluations}):
        found = [run.evaluations.get(protocol, {}).get("metrics", {}) for run in runs]
        names = sorted({name for metrics in found for name in metrics})
        rows += [[f"{protocol}: {name}", *(metrics.get(name) for metrics in found)] for name in names]
    return _table(["", *(run.name for run in runs)], rows, marks_best=len(runs) > 1)


def _settings(runs: list[Run]) -> str:
    keys = list(dict.fromkeys(key for run in runs for key in run.config))
    rows = [[key, *(run.config.get(key) for run in runs)] for key in keys]
    if len(runs) > 1:
        rows = [row for row in rows if len({json.dumps(value) for value in row[1:]}) > 1]
    return _table(["key", *(run.name for run in runs)], rows)


def _pictures(runs: list[Run]) -> str:
    shown = [metric for metric in CURVES if any(run.curve(metric)[0] for run in runs)]
    if not shown:
        return "<p>No metrics have been recorded yet.</p>"
    figure, axes = plt.subplots(-(-len(shown) // 2), 2, figsize=(10, 2.9 * -(-len(shown) // 2)), squeeze=False)
    for axis, metric in zip(axes.flat, shown, strict=False):
        for run in runs:
            steps, values = run.curve(metric)
            axis.plot(steps, values, marker="." if len(steps) < 40 else "", linewidth=1.2, label=run.name)
        axis.set_title(metric, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(shown) :]:
        axis.remove()
    if len(runs) > 1:
        axes.flat[0].legend(fontsize=8)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='curves of {html.escape(', '.join(shown))}' src='data:image/png;base64,{data}'>"


def _table(header: list[str], rows: list[list[Any]], *, marks_best: bool = False) -> str:
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in header) + "</tr>"]
    for name, *values in rows:
        numbers = [value for value in values if isinstance(value, float)]
        best = (min if "loss" in name else max)(numbers) if marks_best and len(numbers) > 1 and "/" in name else None
        cells = [
            f"<td{' class=best' if value == best and best is not None else ''}>{_text(value)}</td>" for value in values
        ]
        lines.append(f"<tr><td><code>{html.escape(name)}</code></td>{''.join(cells)}</tr>")
    return "".join([*lines, "</table>"])


def _text(value: Any) -> str:
    if value is None:
        return ""
    return html.escape(
        f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    )


def _flat(tree: Row, prefix: str = "") -> Any:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directory, or the folder of all runs")
    parser.add_argument("--out", type=Path, help="HTML file to write; default: in the given directory, if it is one")
    options = parser.parse_args()
    first, is_list = options.runs[0], len(options.runs) == 1 and not (options.runs[0] / "config.yaml").is_file()
    if options.out is None and len(options.runs) > 1:
        parser.error("--out is needed to compare several runs")
    text = index(first) if is_list else page([Run(path) for path in options.runs])
    out = options.out or first / ("index.html" if is_list else "report.html")
    write_whole(out, text)
    print(out)


if __name__ == "__main__":
    main()

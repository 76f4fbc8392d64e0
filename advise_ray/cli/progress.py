"""Shows progress on stderr: a progress bar, and a line after each epoch; and formats results as tables."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

if TYPE_CHECKING:
    from advise_ray.evaluation.write_report import EvaluationResult
    from advise_ray.sweep.sweep_result import SweepResult
    from advise_ray.training.metrics_lines import MetricsLine
    from advise_ray.training.run_result import RunResult
    from advise_ray.training.status import RunStatus

console = Console(stderr=True, highlight=False)
TELL_EVERY_S = 60.0
"""Minimum time between two `waiting` lines in a log."""


def tell(line: str) -> None:
    """Print a line on stderr, unless `--quiet` is set."""
    console.print(line, markup=False, soft_wrap=True)


class _Bar(Progress):
    """A progress bar that can show a note in its place, such as what the run waits for."""

    note = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        return [Text(self.note)] if self.note else super().get_renderables()


_shown: list[_Bar] = []
_status: Status | None = None
_told_s = -math.inf


def covers_notes() -> bool:
    """Whether a progress bar or a changing line is on the terminal, so that other lines must be printed by `tell`."""
    return console.is_terminal and not console.quiet and (bool(_shown) or _status is not None)


def waiting(line: str | None) -> None:
    """Show what the program waits for; None ends it. A terminal shows one changing line, a log one line per minute."""
    global _status, _told_s
    if console.is_terminal and _shown:
        _shown[-1].note = line or ""
    elif console.is_terminal and line is not None:
        _status = _status or console.status(line)
        _status.update(line)
        _status.start()
    elif line is not None and time.monotonic() > _told_s + TELL_EVERY_S:
        _told_s = time.monotonic()
        tell(line)
    if line is None:
        _told_s = -math.inf
        if _status is not None:
            _status.stop()
            _status = None


def results_alone() -> AbstractContextManager[object]:
    """Redirect stdout to stderr. Ray prints its warnings about tasks and actors to stdout, which is for results."""
    return redirect_stdout(sys.stderr)


@contextmanager
def counting(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar, or, in a log, a line after each tenth of the work; yields a function (done, total).

    The bar disappears if the work fails, or if there was nothing to do.
    """
    if not console.is_terminal:
        with results_alone():
            yield _by_tenths(description)
        return
    with results_alone(), _bar() as bar:
        task = bar.add_task(description, total=None)
        try:
            yield lambda done, total: bar.update(task, completed=done, total=total)
        except BaseException:
            bar.update(task, visible=False)
            raise
        bar.update(task, visible=bar.tasks[task].total is not None)


def _by_tenths(description: str) -> Callable[[int, int], None]:
    shown_tenths = 0

    def on_progress(done: int, total: int) -> None:
        nonlocal shown_tenths
        if total and 10 * done // total > shown_tenths:
            shown_tenths = 10 * done // total
            tell(f"{description}: {done:,} of {total:,}")

    return on_progress


@contextmanager
def training() -> Iterator[Callable[[MetricsLine, int], None]]:
    """Show a progress bar over steps; yields a function that takes a line of metrics.jsonl and the number of steps."""
    with results_alone(), _bar(transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def on_line(line: MetricsLine, total_steps: int) -> None:
            values = line["values"]
            if line["kind"] == "step":
                loss = f"loss {values['train/loss']:.3f}"
                bar.update(task, completed=line["step"], total=total_steps, description=loss)
            else:
                console.print(_epoch_row(line["epoch"], values), soft_wrap=True)

        yield on_line


@contextmanager
def _bar(transient: bool = False) -> Iterator[_Bar]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with _Bar(*columns, console=console, transient=transient) as bar:
        _shown.append(bar)
        try:
            yield bar
        finally:
            _shown.remove(bar)


def _epoch_row(epoch: int, values: dict[str, float]) -> str:
    row = f"epoch {epoch + 1:>4}   train loss {values['train/epoch_loss']:.3f} top1 {values['train/epoch_top1']:.3f}"
    if "val/top1" in values:
        row += f"   val loss {values['val/loss']:.3f} top1 {values['val/top1']:.3f}"
    return row + (
        f"   {values['rate/clips_per_s']:.1f} clips/s   data wait {100 * values['rate/data_wait_fraction']:.0f} %"
    )


def result_table(result: RunResult) -> str:
    """Format the result of a run as a table. Paths are never cut, so that users can copy them."""
    from advise_ray.cli import run_view

    run_dir = Path(result["run_dir"])
    rows: dict[str, Any] = {"epochs": result["epochs"], "steps": result["steps"], "clips seen": result["clips_seen"]}
    rows |= run_view.with_chance(dict(sorted(result["metrics"].items())), run_dir) | _curves(run_dir)
    rows |= {name: f"{value:.3g}" for name, value in result["rates"].items()}
    if result.get("bound_by"):
        rows["bound by"] = result["bound_by"]
    named = f", listed in {result['run_dir']}/rejects.parquet" if result["failed_videos"] else ""
    rows |= {"failed videos": f"{result['failed_videos']}{named}", "wall time": f"{result['wall_s']:.0f} s"}
    rows |= {"checkpoint": result["checkpoint"], "best": result["best_checkpoint"], "run directory": result["run_dir"]}
    width = max(map(len, rows))
    return "\n".join([f"{result['run_name']}: {result['status']}", *(f"  {k:<{width}}  {v}" for k, v in rows.items())])


def _curves(run_dir: Path) -> dict[str, str]:
    from advise_ray.cli import run_view

    return run_view.curves(run_dir) if run_view.can_draw(sys.stdout) else {}


def tell_next(run_dir: Path, status: str, bound_by: str | None) -> None:
    """Print the commands that come after a run."""
    from advise_ray.cli import run_view

    for line in run_view.next_commands(run_dir, status, bound_by):
        tell(f"next: {line}")


def status_table(found: RunStatus, run_dir: Path) -> str:
    """Format the state of a run as a table."""
    from advise_ray.cli import run_view

    done = f"{found['step']} of {found['steps'] or '?'}"
    of_run = {"epoch": f"{found['epoch']} of {found['epochs']}", "step": done}
    rows: dict[str, Any] = {"ended trials": done} if run_view.is_sweep(run_dir) else of_run
    rows |= run_view.with_chance(found["values"], run_dir) | _curves(run_dir)
    if found["eta_s"] is not None:
        rows["ends in"] = f"{found['eta_s'] / 60:.1f} min"
    if found["bound_by"]:
        rows["bound by"] = found["bound_by"]
    if found["waiting"]:
        rows["waiting"] = found["waiting"].removeprefix("waiting ")
    for node in found["nodes"] if found["status"] == "RUNNING" else []:
        used = f"{node['cpus'] - node['free_cpus']:g} of {node['cpus']:g} CPUs"
        used += f", {node['gpus'] - node['free_gpus']:g} of {node['gpus']:g} GPUs" if node["gpus"] else ""
        rows[f"node {node['address']}"] = f"{used} reserved"
    if found["status"] == "SILENT":
        rows["last update"] = f"{found['silent_s'] / 60:.0f} min ago: its driver has died or cannot reach its storage"
    width = max(map(len, rows))
    return "\n".join([f"{found['run_name']}: {found['status']}", *(f"  {k:<{width}}  {v}" for k, v in rows.items())])


def evaluation_table(result: EvaluationResult) -> str:
    """Format the result of a protocol as a table: metrics (with deviations over several splits) and findings."""
    deviations = result["deviations"]
    rows: dict[str, Any] = {
        name: f"{value:.4g}" + (f" ± {deviations[name]:.2g}" if name in deviations else "")
        for name, value in result["metrics"].items()
    }
    rows |= {"videos": result["videos"], "failed videos": result["failed_videos"]}
    rows |= {"wall time": f"{result['wall_s']:.0f} s", "written to": result["evaluation_dir"]}
    width = max(map(len, rows))
    findings = [line for split in result["splits"].values() for line in split.get("findings", [])]
    return "\n".join([result["protocol"], *(f"  {k:<{width}}  {v}" for k, v in rows.items()), *findings])


JUDGED_STAGE = {"val/top1": "pretrain", "acc_ft": "finetune"}
"""Objective of a sweep → the run of a trial whose classes it is about. Other objectives are shown without chance."""


def sweep_table(result: SweepResult) -> str:
    """Format the result of a sweep as a table."""
    from advise_ray.cli import run_view

    best = result["best"]
    rows: dict[str, Any] = {name: result[name] for name in ("trials", "finished", "pruned", "failed")}
    if best is not None:
        metric, trial_dir = result["metric"], Path(result["sweep_dir"]) / "trials" / f"{best['number']:04d}"
        judged = trial_dir / JUDGED_STAGE.get(metric, "")
        rows |= {"best trial": trial_dir.name} | run_view.with_chance({metric: best["values"][metric]}, judged)
        rows |= {f"  {key}": json.dumps(value) for key, value in best["settings"].items()}
    rows |= {f"recipe {number}": path for number, path in enumerate(result["recipes"], 1)}
    rows |= {"table": result["table"]} | {Path(path).stem: path for path in result["figures"]}
    rows |= {"wall time": f"{result['wall_s']:.0f} s", "sweep directory": result["sweep_dir"]}
    width = max(map(len, rows))
    return "\n".join([f"{result['run_name']}: {result['status']}", *(f"  {k:<{width}}  {v}" for k, v in rows.items())])

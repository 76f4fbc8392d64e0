"""What a terminal shows of a run: curves, chance, the next commands, and notes above a progress bar."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from advise_ray.cli import progress, run_view
from advise_ray.cli.group import _Lines
from advise_ray.config import load, recipes, to_yaml
from advise_ray.video.manifest import SCHEMA, write_manifest


def make_run(root: Path, *overrides: str, recipe: str = "pretrain_footage") -> Path:
    """A run with a loss that falls over 100 steps, two validations, and a checkpoint with three classes."""
    run = root / "a run"
    (run / "checkpoints" / "step_00000100").mkdir(parents=True)
    state = {"step": 100, "classes": ["×1", "×2", "×4"]}
    (run / "checkpoints" / "step_00000100" / "state.json").write_text(json.dumps(state))
    (run / "config.yaml").write_text(to_yaml(load(recipes.find(recipe), overrides)))
    lines: list[dict[str, Any]] = [
        {"time_s": step, "epoch": 0, "step": step, "values": {"train/loss": 2 - step / 100}} for step in range(1, 101)
    ]
    lines += [{"time_s": 100, "epoch": e, "step": 50 * e + 50, "values": {"val/top1": 0.4 + e / 10}} for e in (0, 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


class Terminal(io.StringIO):
    def __init__(self, encoding: str, tty: bool = True) -> None:
        super().__init__()
        self.named, self.tty = encoding, tty

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.named

    def isatty(self) -> bool:
        return self.tty


def test_curves_rise_and_fall_and_have_at_most_a_width() -> None:
    assert run_view.curve([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert run_view.curve([1.0]) == run_view.curve([1.0, float("nan")]) == "▁"
    assert run_view.curve([]) == ""
    long = run_view.curve([-float(step) for step in range(1000)])
    assert len(long) == run_view.CURVE_WIDTH
    assert (long[0], long[-1]) == ("█", "▁")


def test_a_run_has_a_curve_of_its_loss_and_of_its_accuracy(tmp_path: Path) -> None:
    found = run_view.curves(make_run(tmp_path))
    assert found["loss over time"].endswith("▁  1.990 → 1.000")
    assert found["top1 over time"] == "▁█  0.400 → 0.500"


@pytest.mark.parametrize(
    ("encoding", "tty", "draws"), [("utf-8", True, True), ("ascii", True, False), ("utf-8", False, False)]
)
def test_only_a_terminal_that_shows_blocks_gets_a_curve(tmp_path, monkeypatch, encoding, tty, draws):
    monkeypatch.setattr(sys, "stdout", Terminal(encoding, tty))
    found = {"run_name": "a", "status": "RUNNING", "epoch": 1, "epochs": 2, "step": 100, "steps": None, "silent_s": 1.0}
    rest = {"values": {"val/top1": 0.43}, "eta_s": None, "bound_by": None, "waiting": None, "nodes": []}
    table = progress.status_table({**found, **rest}, make_run(tmp_path))
    assert ("█" in table) is draws
    assert "val/top1" in table
    assert "0.43, chance 0.333" in table


def test_what_comes_next_depends_on_the_run(tmp_path: Path) -> None:
    rows = [
        dict.fromkeys(SCHEMA.names) | {"video_id": str(n), "path": str(n), "label": n, "num_frames": 9} for n in (0, 1)
    ]
    needed = {"fps": 30.0, "width": 9, "height": 9, "decoder": "pyav", "stream_index": 0, "rotation_deg": 0}
    write_manifest([row | needed for row in rows], tmp_path / "m.parquet")
    own = (f"data.manifest={tmp_path / 'm.parquet'}", f"storage.path={tmp_path}", "tracking.run_name=first")
    run = make_run(tmp_path, *own)
    quoted = f"'{run}'"
    evaluate = f"advise-ray evaluate {quoted} --protocol pretext"
    assert run_view.next_commands(run, "RUNNING", "the temporal module") == []
    assert run_view.next_commands(run, "KILLED", None) == [f"advise-ray train --resume {quoted}"]
    fine_tune = (
        f"advise-ray train --config finetune_footage --set data.manifest={tmp_path}/m.parquet "
        f"--set model.init_from={quoted}"
    )
    assert run_view.next_commands(run, "FINISHED", "the temporal module") == [evaluate, fine_tune]
    cache = f"advise-ray cache --config '{run}/config.yaml' --out '{tmp_path}/a run_features'"
    assert run_view.next_commands(run, "RUNNING", "the image model: …") == [cache]
    assert run_view.next_commands(run, "FINISHED", "the image model: …") == [evaluate, fine_tune, cache]
    for name in ("a run_features", "first"):
        (tmp_path / name).mkdir()
    assert run_view.next_commands(run, "FINISHED", "the image model: …")[2] == (
        f"advise-ray train --config '{run}/config.yaml' --set tracking.run_name=first_cached "
        f"--set 'data.features={tmp_path}/a run_features'"
    )
    (run / "settings.json").write_text("{}")  # of a trial, which only its sweep can resume
    assert run_view.next_commands(run, "SILENT", None) == []


def test_a_sweep_that_was_stopped_is_resumed_by_tune(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe="sweep_spatial")
    assert run_view.next_commands(run, "KILLED", None) == [f"advise-ray tune --resume '{run}'"]
    assert run_view.next_commands(run, "FINISHED", None) == []


def test_a_note_is_printed_above_the_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=60, highlight=False))
    log = logging.Logger("test")
    log.addHandler(_Lines(screen))
    long = "note: leaving out 3 validation videos, because " + "they are too short " * 5 + "."
    with progress.training():
        log.warning(long)
    (noted,) = (line for line in screen.getvalue().split("\n") if "note:" in line)
    _, _, shown = noted.rpartition("\x1b[2K")  # which clears the line
    assert shown.strip() == long  # whole, so that paths in it can be copied
    log.warning("after")
    assert screen.getvalue().endswith("\x1b[2Kafter\n")

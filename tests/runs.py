"""For tests: read the files of runs, call the command, and wait."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file

from advise_ray.storage.jsonl import read_lines
from advise_ray.video.manifest import SCHEMA

PATIENCE_S = 240


def losses(run: dict[str, Any] | Path) -> list[float]:
    """Of steps 1, 2, 3, …; each is there once."""
    lines = [line for line in read_lines(_directory(run) / "metrics.jsonl") if "train/loss" in line["values"]]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["values"]["train/loss"] for line in lines]


def train_workers() -> list[psutil.Process]:
    """The workers of the runs that train on the Ray of the tests."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            if "ray::RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def clips_trained_on(run: dict[str, Any] | Path) -> list[tuple[Any, ...]]:
    """(epoch, step, video, clip, rate, frames, weight); of a step that was done twice, those of the last time."""
    steps: dict[int, list[tuple[Any, ...]]] = {}
    newest: dict[int, str] = {}
    for path in sorted((_directory(run) / "clips").glob("*.parquet")):
        attempt = path.name.split("-")[0]
        for row in pq.read_table(path).to_pylist():
            if newest.get(row["step"]) != attempt:
                newest[row["step"]], steps[row["step"]] = attempt, []
            key = (row["epoch"], row["step"], row["video_id"], row["clip"], row["rate_index"])
            steps[row["step"]].append((*key, tuple(row["frame_indices"]), row["weight"]))
    return sorted(clip for clips in steps.values() for clip in clips)


def weights(run: dict[str, Any], which: str = "checkpoint") -> dict[str, Any]:
    """Tensors of a run's `checkpoint` or `best_checkpoint`, by name."""
    return load_file(Path(run[which]) / "model.safetensors")


def _directory(run: dict[str, Any] | Path) -> Path:
    return run if isinstance(run, Path) else Path(run["run_dir"])


def set_options(settings: Iterable[str]) -> list[str]:
    """`--set` for each."""
    return [word for setting in settings for word in ("--set", setting)]


def command(*arguments: str) -> list[str]:
    """`advise-ray` as a process of its own."""
    return [sys.executable, "-m", "advise_ray", *arguments]


def start(*arguments: str, **how: Any) -> subprocess.Popen[str]:
    """`advise-ray`, begun; it heeds Ctrl-C also where the tests were begun in a shell's background, which does not."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    return subprocess.Popen(command(*arguments), text=True, preexec_fn=heeds, **pipes | how)


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE_S, alive: Any = None) -> None:
    """Wait until it holds; `alive`: a process that must not end meanwhile."""
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert alive is None or alive.poll() is None, f"ended with {alive.returncode}"
        assert time.monotonic() < deadline_s, f"not within {seconds} s"
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Whether a server says 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def eventually_step(run_dir: Path, step: int, alive: Any = None) -> None:
    """Wait until a run has written so many steps."""
    metrics = run_dir / "metrics.jsonl"
    eventually(lambda: metrics.exists() and any(line["step"] >= step for line in read_lines(metrics)), alive=alive)


def manifest_of(splits: dict[str | None, int]) -> pa.Table:
    """Rows of a manifest, so many in each split; there are no such files."""
    rows = [
        dict.fromkeys(SCHEMA.names)
        | {
            "video_id": f"{split}_{number}.mp4",
            "path": f"/nowhere/{split}_{number}.mp4",
            "num_frames": 99,
            "split": split,
        }
        for split, count in splits.items()
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)

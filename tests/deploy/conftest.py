"""Checkpoints with random weights, and a video, all made without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from advise_ray.config import load
from advise_ray.model.advise import build_advise
from advise_ray.training import checkpoint
from advise_ray.video.synth import synthesize


@pytest.fixture(scope="session")
def untrained(tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Task → run with one checkpoint."""
    runs = {}
    for task, classes in {"prp": ["×1", "×2", "×4"], "action": ["clap", "jump", "run", "wave"]}.items():
        run_dir = tmp_path_factory.mktemp(task)
        config = load(None, [*tiny, f"task={task}"])
        model = build_advise(config, len(classes))
        state = checkpoint.State(step=1, ifm_sha256=model.ifm.hash_weights(), classes=classes)
        optimizer = torch.optim.AdamW(model.temporal.trained_parameters())
        checkpoint.save(run_dir, config, model.temporal, optimizer, state)
        runs[task] = run_dir
    return runs


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two videos and a file that is none: `a.mp4`, `b.mp4`, `text.mp4`."""
    root = tmp_path_factory.mktemp("footage")
    synthesize(root / "all", 2, seed=0)
    folder = root / "videos"
    folder.mkdir()
    for name, video in zip("ab", sorted((root / "all").rglob("*.mp4")), strict=True):
        (folder / f"{name}.mp4").write_bytes(video.read_bytes())
    (folder / "text.mp4").write_text("not a film")
    return folder

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def finetune(tmp_path: Path) -> Path:
    """A recipe of a fine-tuning for trials of `tiny`."""
    path = tmp_path / "finetune.yaml"
    path.write_text(
        "task: action\n"
        "data: {val_split: null, val_fraction: 0.3, clip: {num_frames: 4, frame_stride: 2, clips_per_video: 2}}\n"
        "model: {head: {num_layers: 1}}\n"
        "train: {epochs: 2, global_batch_size: 8}\n"
    )
    return path

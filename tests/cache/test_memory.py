"""Training from a cache that is larger than the memory: it needs memory for its batches only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from advise_ray.cache import store
from advise_ray.cache.identity import Identity
from advise_ray.cache.part_file import Part, Piece, write_part
from advise_ray.cache.piece_index import Index, rows_of, write_index
from advise_ray.video.manifest import Videos, read_manifest, write_manifest

NUM_VIDEOS, FRAMES, GRID, CHANNELS = 64, 32, (7, 7), 768
CACHE_BYTES = NUM_VIDEOS * FRAMES * 2 * GRID[0] * GRID[1] * CHANNELS
LIMIT_BYTES = 120 * 2**20
"""Of memory that the process may take beyond what it has with its code loaded; files that are mapped do not count."""

TRAIN = f"""
import resource, sys
import numpy as np, torch
from pathlib import Path
from advise_ray.config import load
from advise_ray.backend.peak_memory import status_bytes
from advise_ray.model.advise import cached_advise
from advise_ray.training.device_feed import DeviceFeed
from advise_ray.training.learner import Learner
from advise_ray.training.clip_reader import read_here
from advise_ray.training.batch_schedule import build_schedule
from advise_ray.video.manifest import Videos, read_manifest

manifest, cache, how = sys.argv[1:]
torch.set_num_threads(1)
config = load(None, [f"data.manifest={{manifest}}", f"data.features={{cache}}", "data.val_fraction=0",
    "data.clip={{num_frames: 8, frame_stride: 1, clips_per_video: 2, rates: [1, 2]}}", "train.global_batch_size=4",
    "model.tmm={{num_blocks: 1, inner_dim: 8, out_dim: 8}}", "model.head.hidden_dim=8"])
table = read_manifest(Path(manifest))
schedule = build_schedule(config, table)
learner = Learner(config, schedule, cached_advise(config, 2, {CHANNELS}, {GRID}), torch.device("cpu"))
cpu = torch.device("cpu")
blocks = iter(DeviceFeed(read_here(config, schedule, Videos(table), 0, 0, 1, pinned=False), cpu))
learner.train_step(next(blocks), 0)  # all code is loaded
limit = status_bytes("VmData") + {LIMIT_BYTES}
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
if how == "read it all":
    parts = [path.read_bytes() for path in Path(cache).glob("part-*")]
for step in range(1, schedule.steps_per_epoch):
    assert torch.isfinite(learner.train_step(next(blocks), step)).all()
print(schedule.steps_per_epoch)
"""


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A manifest of videos that need not be there, and their features."""
    folder = tmp_path_factory.mktemp("large")
    facts = {"fps": 25.0, "width": 320, "height": 240, "decoder": "decord", "bytes": 1, "num_frames": FRAMES}
    facts |= {"stream_index": 0, "rotation_deg": 0}
    rows = [
        {"video_id": str(n), "path": f"/{n}.mp4", "label": None, "split": "train", **facts} for n in range(NUM_VIDEOS)
    ]
    write_manifest(rows, folder / "manifest.parquet")
    identity = Identity({}, CHANNELS, GRID, 1, 1)
    cache = folder / "cache"
    cache.mkdir()
    store.write_identity(str(cache), identity)
    features = np.random.default_rng(0).standard_normal((1, FRAMES, *identity.frame_shape)).astype(np.float16)
    index = Index()
    for video in Videos(read_manifest(folder / "manifest.parquet")):
        piece = Piece(video, np.arange(FRAMES), features)
        index.add(rows_of(Part(str(cache), write_part(str(cache), [piece]))))
    write_index(str(cache), index.table())
    return folder / "manifest.parquet", cache


def train(cached: tuple[Path, Path], how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TRAIN, *map(str, cached), how]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.full
def test_a_cache_larger_than_memory_trains(cached: tuple[Path, Path]) -> None:
    assert CACHE_BYTES > LIMIT_BYTES
    done = train(cached, "map it")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == NUM_VIDEOS // 2
    refused = train(cached, "read it all").stderr  # the limit is one, for Python and for torch
    assert "MemoryError" in refused or "can't allocate memory" in refused

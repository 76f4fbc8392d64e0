"""One small data set, one Ray and one run of each kind for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from advise_ray import dataset
from advise_ray.backend import session
from advise_ray.cache.cache_plan import plan_cache
from advise_ray.cache.writer import write_cache
from advise_ray.config import Config, load
from advise_ray.training.local import train_here
from advise_ray.training.trainer import train
from advise_ray.video.annotations import read_ucf101
from advise_ray.video.synth import synthesize

for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
    os.environ.pop(name, None)  # runs of the tests are logged to stores of their own

Configure = Callable[..., Config]
Run = dict[str, Any]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real videos and lists, which are no part of the project."""
    data = Path(__file__).parents[2] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("no shared/data beside the repository")
    return data


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """A real run that takes seconds: 16 training videos make 4 steps an epoch."""
    return (
        "data.val_split=test",
        "data.val_clips_per_rate=1",
        "data.clip={num_frames: 4, frame_stride: 1, clips_per_video: 2, rates: [1, 2, 4]}",
        "augment={resize_height_px: 120, resize_width_px: 160, crop_size_px: 96}",
        "model.ifm={name: 'timm:test_efficientnet', weights: none, precision: fp32}",
        "model.sfu={temporal_centering: true}",
        "model.tmm={num_blocks: 1, inner_dim: 16, out_dim: 32}",
        "model.head.hidden_dim=32",
        "optim.warmup_epochs=1",
        "train={epochs: 1, global_batch_size: 8, val_every_epochs: 5}",
    )


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    session.connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Models this small lose more by waiting for threads than they gain; a run in this process takes all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def beside(local_ray: None) -> dict[str, str]:
    """The environment of commands that work on the Ray of the tests, which saves the start of their own."""
    session.connect()  # a run that failed has ended the Ray that there was
    return os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.fixture(scope="session")
def synthesized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 videos, 16 of them for training, in the layout of UCF101."""
    root = tmp_path_factory.mktemp("synthesized")
    synthesize(root, 24, seed=0, layout="ucf101")
    return root


@pytest.fixture(scope="session")
def manifest(synthesized: Path, local_ray: None) -> Path:
    listing = read_ucf101(synthesized / "videos", synthesized / "ucfTrainTestlist", 1)
    dataset.index(listing, synthesized / "videos", synthesized / "manifest.parquet")
    return synthesized / "manifest.parquet"


@pytest.fixture(scope="session")
def features(tiny: tuple[str, ...], manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image model of `tiny` sees in every frame of `manifest`: runs without decoding start twice as fast."""
    out = tmp_path_factory.mktemp("caches") / "features"
    result = write_cache(plan_cache(load(None, [*tiny, f"data.manifest={manifest}"]), str(out)))
    assert (result["videos"], result["encoded"], result["failed_videos"]) == (24, 24, 0)
    assert result["bytes"] == sum(file.stat().st_size for file in out.glob("part-*"))
    return out


@pytest.fixture(scope="session")
def configure(manifest: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """`tiny` on `manifest`, with one storage and so one MLflow store for all: runs there need names of their own."""
    own = (*tiny, f"data.manifest={manifest}", f"storage.path={tmp_path_factory.mktemp('runs')}")
    return lambda run_name, *overrides: load(None, [*own, f"tracking.run_name={run_name}", *overrides])


LOGGED = ("train.epochs=5", "data.log_clips=true", "data.deterministic=true")
"""What runs have that are compared with `pretrained`."""


@pytest.fixture(scope="session")
def pretrained(configure: Configure) -> Run:
    """Five epochs of rates on one worker, by Ray Data, Ray Train and MLflow: the run that others are compared with."""
    return train(configure("pretrained", *LOGGED, "data.num_decode_actors=1"))


@pytest.fixture(scope="session")
def fine_tuned(configure: Configure, pretrained: Run) -> Run:
    """Two epochs of actions from there on, in this process."""
    own = ("task=action", "data.val_split=null", "data.val_fraction=0.2", f"model.init_from={pretrained['run_dir']}")
    return train_here(configure("fine-tuned", *own, "train.epochs=2"))

"""A whole run, from its first file to its last, with a fault at each of its file operations. Without Ray and MLflow."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from advise_ray.backend import nodes
from advise_ray.backend.processes import Shares
from advise_ray.cache.identity import Identity
from advise_ray.config import Config, load, to_yaml
from advise_ray.model.advise import cached_advise
from advise_ray.storage.retry import patiently
from advise_ray.tracking import model_registry, run_tracker, sender
from advise_ray.training import checkpoint, ray_train, run_dir, trainer, worker
from advise_ray.training.checkpoint import State
from advise_ray.training.clip_block import ClipBlock
from advise_ray.training.device_feed import DeviceBlock
from advise_ray.training.plan import Plan, make_plan
from advise_ray.training.worker import Worker
from advise_ray.video.manifest import write_manifest
from tests.faults import survives
from tests.runs import manifest_of

CHANNELS, GRID = 8, (2, 2)
OWN = (
    "data.log_clips=true",
    "tracking.run_name=run",
    "train={epochs: 2, global_batch_size: 8, val_every_epochs: 1, checkpoint_every_steps: 1, keep_checkpoints: 1}",
)
WHOLE = ("config.yaml", "rejects.parquet", "tracking.json", "result.json", "model_card.md", "data_card.md")
VARYING = rb'"(wall_s|time_s|ended_s|sent_bytes|bound_by|rates|(rate/)?(\w+_s|\w+_fraction))": [^,}\n]+'


class Mlflow:
    """Holds what it gets, as MLflow does: twice the same is once."""

    def __init__(self) -> None:
        self.run = SimpleNamespace(info=SimpleNamespace(run_id="1", experiment_id="0"), data=SimpleNamespace(params={}))
        self.held: set[tuple[str, ...]] = set()

    def search_runs(self, *_: object) -> list[Any]:
        return [self.run] if self.held else []

    def create_run(self, *_: object, **__: object) -> Any:
        self.held.add(("run",))
        return self.run

    def log_batch(self, _: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        self.held |= {("metric", each.key, str(each.step)) for each in metrics}
        self.held |= {("param or tag", each.key) for each in (*params, *tags)}

    def get_run(self, _: str) -> Any:
        return self.run

    def get_experiment(self, _: str) -> Any:
        return SimpleNamespace(tags={})

    def set_experiment_tag(self, _: str, key: str, __: str) -> None:
        self.held.add(("experiment tag", key))

    def set_tag(self, _: str, key: str, __: str) -> None:
        self.held.add(("param or tag", key))

    def log_inputs(self, _: str, inputs: Any) -> None:
        self.held |= {("data", each.dataset.name) for each in inputs}

    def log_artifact(self, _: str, path: str, folder: str | None = None) -> None:
        Path(path).read_bytes()
        self.held.add(("file", Path(path).name))

    def update_run(self, *_: object, **__: object) -> None: ...

    def set_terminated(self, _: str, status: str, **__: object) -> None:
        self.held.add((status,))


@pytest.fixture(scope="module")
def plan(tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Of a run with two epochs of two steps on cached features."""
    path = tmp_path_factory.mktemp("manifest") / "manifest.parquet"
    facts = {"path": str(path), "fps": 25.0, "width": 160, "height": 120, "decoder": "decord"}
    rows = manifest_of({"train": 8, "test": 2}).to_pylist()
    write_manifest([row | facts | {"stream_index": 0, "rotation_deg": 0} for row in rows], path)
    config = load(None, [*tiny, *OWN, f"data.manifest={path}"])
    made = make_plan(config, shares=Shares(1, 1.0, 0, 0.0, False))
    cached = config.model_copy(update={"data": config.data.model_copy(update={"features": "/nowhere"})})
    identity = Identity({}, CHANNELS, GRID, frame_step=1, views=1)
    return replace(made, config=cached, model=cached_advise(cached, len(made.classes), CHANNELS, GRID), cached=identity)


class Learner:
    """In place of the real one, which takes longer: the same losses each time."""

    num_workers = 1

    def __init__(self, *_: object) -> None:
        self.model = SimpleNamespace(temporal=torch.nn.Linear(2, 2))
        torch.nn.init.ones_(self.model.temporal.weight)
        torch.nn.init.ones_(self.model.temporal.bias)
        self.optimizer = torch.optim.SGD(self.model.temporal.parameters(), 0.1, momentum=0.9)

    def learning_rate(self, step: int) -> float:
        return 0.1

    def train_step(self, block: DeviceBlock, step: int) -> torch.Tensor:
        return torch.tensor([1.0 + step, 1.0, 8.0, 0.5])

    def val_step(self, block: DeviceBlock, confusion: torch.Tensor) -> torch.Tensor:
        confusion[0, 0] += len(block.weights)
        return torch.tensor(1.0)


def blocks(plan: Plan, state: State) -> Iterator[ClipBlock]:
    for batch in plan.schedule.batches(state.step):
        num_clips, num_frames = len(batch.videos), plan.config.data.clip.num_frames
        yield ClipBlock(
            targets=np.arange(num_clips) % len(plan.classes),
            weights=batch.weights,
            features=np.zeros((num_clips, 1, 1, 1, 1), np.float16),
            share=batch,
            rate_indices=np.zeros(num_clips, np.int64),
            frame_indices=np.zeros((num_clips, num_frames), np.int64),
            failures={plan.videos[0].video_id: "no such file"} if batch.step == 2 else {},
        )


def create(config: Config) -> Path:
    """The first file of a run's new directory."""
    folder = run_dir.run_dir_of(config)
    patiently(lambda: folder.mkdir(exist_ok=True))
    run_dir.write_config(config, folder)
    return folder


@pytest.fixture
def train(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """Trains in a folder, with the clips of `blocks`; returns the result and what MLflow has."""
    for module, name, value in (
        *((trainer, name, lambda *_: None) for name in ("refuse_existing", "refuse_unwritable", "_check_tracking")),
        (trainer, "create", create),
        (run_tracker, "MachineMetrics", lambda *_: SimpleNamespace(finish=lambda: None)),
        (run_tracker, "POLL_S", 60.0),  # the thread sends at the end of the run, so each run does the same
        (run_tracker, "LONGEST_WAIT_S", 0.0),
        (model_registry, "upload", lambda *_: "models:/1"),
        (model_registry, "register", lambda *_: None),
        (ray_train, "PAUSE_S", 0.0),
        (nodes, "usage", list),
        (worker, "Learner", Learner),
    ):
        monkeypatch.setattr(module, name, value)

    def run_workers(plan: Plan, folder: Path, tracker: Any, on_line: Any) -> None:
        report = ray_train._Report(plan, folder, tracker, on_line, SimpleNamespace(given=False))
        while not report.tracks:
            report(None)
        given = {"videos": plan.videos, "weights": plan.weights(), "device": torch.device("cpu")}
        for _ in Worker(plan.worker_spec(folder), **given, blocks=blocks(plan, State())).epochs():
            report(None)

    text_of = functools.cache(lambda path: to_yaml(placed(path)))  # YAML takes most of the time

    def placed(path: Path) -> Config:
        return plan.config.model_copy(update={"storage": plan.config.storage.model_copy(update={"path": str(path)})})

    def run(storage: Path) -> Any:
        mlflow = Mlflow()
        monkeypatch.setattr(sender, "connect", lambda _: (mlflow, "0"))
        text = text_of(storage)
        for module in (checkpoint, run_dir):
            monkeypatch.setattr(module, "to_yaml", lambda _: text)
        monkeypatch.setattr(trainer, "make_plan", lambda config: replace(plan, config=config))
        monkeypatch.setattr(trainer, "run_workers", run_workers)
        result = trainer.train(placed(storage))
        return {key: result[key] for key in ("status", "steps", "epochs", "failed_videos", "metrics")}, mlflow.held

    return run


def same(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files without what differs from run to run: times and rates."""
    return {re.sub(r"\d{12,}", "", name): re.sub(VARYING, b"", content) for name, content in files.items()}


@pytest.mark.parametrize("every", [97, pytest.param(1, marks=pytest.mark.full)])
def test_a_run_ends_as_if_there_had_been_no_fault(
    train: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    operations = survives(train, tmp_path / "storage", monkeypatch, same=same, every=every)
    written = {Path(operation.split()[-1]).name for operation in operations if operation.startswith("replace")}
    assert {f".{name}.partial" for name in WHOLE} <= written


def test_a_checkpoint_is_saved_and_the_old_ones_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    config = load(None, ["train.keep_checkpoints=1"])
    monkeypatch.setattr(checkpoint, "to_yaml", lambda _: "")  # YAML takes most of the time

    def save(folder: Path) -> None:
        for step in (1, 2, 2):
            checkpoint.save(folder, config, model, optimizer, State(step))

    survives(save, tmp_path / "storage", monkeypatch, every=5)

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from advise_ray.config import Config, load
from advise_ray.errors import UsageError
from advise_ray.model.advise import build_advise
from advise_ray.training import checkpoint
from advise_ray.training.checkpoint import State
from advise_ray.training.optimizer import build_optimizer

Trained = tuple[nn.Module, torch.optim.Optimizer]


def trained(seed: int, steps: int = 3, width: int = 4) -> Trained:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(steps):
        train_step(model, optimizer, step)
    return model, optimizer


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
    (model(x) - 1).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def save(run_dir: Path, step: int, top1: float | None = None, config: Config | None = None) -> Path:
    metrics = {"train/epoch_loss": 1.0} | ({"val/top1": top1} if top1 is not None else {})
    state = State(step=step, metrics=metrics if top1 is not None else {})
    return checkpoint.save(run_dir, config or load(None, ["train.keep_checkpoints=2"]), *trained(0, 1), state)


def kept(run_dir: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in checkpoint.list_checkpoints(run_dir)]


def test_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    model, optimizer = trained(seed=0)
    config = load(None, ["optim.lr=1e-4", "data.clip.rates=[1, 2]"])
    state = State(3, 96, [1.5, 2.0, 32.0], {"val/top1": 0.5}, ifm_sha256="ab12")
    path = checkpoint.save(tmp_path, config, model, optimizer, state)
    assert path == checkpoint.latest(tmp_path) == tmp_path / "checkpoints" / "step_00000003"
    again, its_optimizer = trained(seed=1, steps=1)
    assert checkpoint.load(path, again, its_optimizer) == state
    for step in (3, 4):
        train_step(model, optimizer, step)
        train_step(again, its_optimizer, step)
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    assert load(path / "config.yaml") == config


def test_the_files_are_read_without_executing_anything(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    config = load(None, tiny)
    model = build_advise(config, 3).temporal
    optimizer = build_optimizer(model, config.optim)
    model(torch.randn(2, 64, 4, 3, 3)).sum().backward()
    optimizer.step()
    path = checkpoint.save(tmp_path, config, model, optimizer, State(1))
    assert {name.split(".")[0] for name in load_file(path / "model.safetensors")} == {"tmm", "head"}
    assert torch.load(path / "optimizer.pt", weights_only=True)["state"]
    assert {file.name for file in path.iterdir()} == {"model.safetensors", "optimizer.pt", "state.json", "config.yaml"}


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    for step, top1 in enumerate([0.1, 0.9, 0.3, 0.9, 0.4, 0.2], start=1):
        save(tmp_path, step, top1)
    assert kept(tmp_path) == [2, 5, 6]
    assert checkpoint.best(tmp_path) == tmp_path / "checkpoints" / "step_00000002"
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoints" / "step_00000006"


def test_a_checkpoint_in_mid_epoch_is_never_the_best(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is checkpoint.best(tmp_path) is None
    save(tmp_path, 1)
    assert checkpoint.best(tmp_path) == tmp_path / "checkpoints" / "step_00000001"  # as long as there is no other
    save(tmp_path, 2, 0.0)
    save(tmp_path, 3)
    save(tmp_path, 4)
    assert checkpoint.best(tmp_path) == tmp_path / "checkpoints" / "step_00000002"
    assert kept(tmp_path) == [2, 3, 4]


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (9, 10, 99_999_999):
        save(tmp_path, step)
    assert kept(tmp_path) == [10, 99_999_999]


def test_half_a_checkpoint_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = save(tmp_path, 1)
    shutil.copytree(whole, whole.with_name("step_00000002.partial"))  # killed just before it got its name
    assert checkpoint.latest(tmp_path) == whole

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="no space"):
            save(tmp_path, 3)
    assert kept(tmp_path) == [1]
    (whole.with_name("step_00000002.partial") / "stale").touch()
    assert not (save(tmp_path, 2) / "stale").exists()
    assert checkpoint.latest(tmp_path) == whole.with_name("step_00000002")


def test_a_step_that_is_done_again_replaces_the_first(tmp_path: Path) -> None:
    save(tmp_path, 5, 0.1)
    path = save(tmp_path, 5, 0.2)
    assert kept(tmp_path) == [5]
    assert checkpoint.read_state(path).metrics["val/top1"] == 0.2


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)), "6 tensors differ, such as 0.bias"),
        (nn.Sequential(nn.Linear(3, 4)), "5 tensors differ, such as 1.bias"),
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), "2 tensors differ, such as 2.bias"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, other: nn.Module, difference: str) -> None:
    path = save(tmp_path, 1)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    message = f"{path}: made for another model; {difference}; its own configuration is {path / 'config.yaml'}"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        checkpoint.load(path, other)
    torch.testing.assert_close(dict(other.state_dict()), before, rtol=0, atol=0)

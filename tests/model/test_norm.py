"""Batch norm over two real workers, compared with torch's own on the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from advise_ray.model.norm import CrossWorkerBatchNorm, synchronise_batch_norm

SHAPES = {"head": (12, 5), "tmm": (6, 5, 4, 3, 3)}
STEPS = 3
WORKER = """
import sys
import torch
from advise_ray.model.norm import CrossWorkerBatchNorm
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
batches = torch.load(f"{folder}/batches.pt")
out = {}
for name, steps in batches.items():
    norm = CrossWorkerBatchNorm(5, eps=1e-3, momentum=0.2)
    out[name] = []
    for whole, weight in steps:
        x = whole.chunk(2)[rank].requires_grad_()
        y = norm(x)
        (y * weight.chunk(2)[rank]).sum().backward()
        out[name].append((y.detach(), x.grad, norm.weight.grad.clone(), norm.bias.grad.clone()))
    out[name].append((norm.state_dict(), norm.eval()(whole), CrossWorkerBatchNorm(5)(whole.bfloat16()).dtype))
torch.save(out, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def batches() -> dict[str, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Inputs and weights of the loss; far from 0, where a mean of squares would lose the variance."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: [
            (100 + torch.randn(shape, generator=generator) * (step + 1), torch.randn(shape, generator=generator))
            for step in range(STEPS)
        ]
        for name, shape in SHAPES.items()
    }


@pytest.fixture(scope="module")
def workers(batches, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list]]:
    folder = tmp_path_factory.mktemp("workers")
    torch.save(batches, folder / "batches.pt")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    commands = [[sys.executable, "-c", WORKER, str(rank), str(folder)] for rank in range(2)]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait(60) for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize(("name", "plain"), [("head", nn.BatchNorm1d), ("tmm", nn.BatchNorm3d)])
def test_two_workers_norm_like_one(workers, batches, name: str, plain: type[nn.Module]) -> None:
    norm = plain(5, eps=1e-3, momentum=0.2)
    for step, (whole, weight) in enumerate(batches[name]):
        x = whole.clone().requires_grad_()
        y = norm(x)
        (y * weight).sum().backward()
        halves = [worker[name][step] for worker in workers]
        torch.testing.assert_close(torch.cat([half[0] for half in halves]), y, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.cat([half[1] for half in halves]), x.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(halves[0][2] + halves[1][2], norm.weight.grad, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(halves[0][3] + halves[1][3], norm.bias.grad, rtol=1e-4, atol=1e-3)
    for worker in workers:
        state, evaluated, _ = worker[name][-1]
        torch.testing.assert_close(state, norm.state_dict(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(evaluated, norm.eval()(whole), rtol=1e-4, atol=1e-4)


def test_autocast_gets_back_what_it_gave(workers) -> None:
    assert {worker[name][-1][2] for worker in workers for name in SHAPES} == {torch.bfloat16}


def test_what_is_saved_is_as_before() -> None:
    module = nn.Sequential(nn.Conv3d(3, 4, 1), nn.Sequential(nn.BatchNorm3d(4, eps=1e-3, momentum=0.3), nn.ReLU()))
    module(torch.randn(2, 3, 4, 5, 5))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    synced = synchronise_batch_norm(module, torch.device("cpu"))
    torch.testing.assert_close(dict(synced.state_dict()), before, rtol=0, atol=0)
    assert isinstance(synced[1][0], CrossWorkerBatchNorm)
    assert (synced[1][0].eps, synced[1][0].momentum) == (1e-3, 0.3)


def test_alone_it_is_torchs_own() -> None:
    """Without a process group, in training and in evaluation."""
    plain, x = nn.BatchNorm1d(4), torch.randn(8, 4)
    synced = synchronise_batch_norm(nn.Sequential(nn.BatchNorm1d(4)), torch.device("cpu"))
    torch.testing.assert_close(synced(x), plain(x))
    torch.testing.assert_close(synced.eval()(x), plain.eval()(x))

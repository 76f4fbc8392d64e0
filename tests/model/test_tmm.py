from __future__ import annotations

import pytest
import torch
from torch import nn

from advise_ray.config import TMMConfig, load
from advise_ray.model.advise import build_advise
from advise_ray.model.tmm import build_tmm

TINY = TMMConfig(num_blocks=2, inner_dim=6, out_dim=10)

pytestmark = pytest.mark.usefixtures("one_thread")


def awaken(module: nn.Module) -> nn.Module:
    """A fresh block is its shortcut alone, since its last batch norm is 0: make it as after some training."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm3d):
            norm.weight.data.uniform_(0.5, 1.5, generator=generator)
            norm.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return module


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (7, 7)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_time_and_space_keep_their_extent(kernel: int, grid: tuple[int, int]) -> None:
    tmm = build_tmm(TINY.model_copy(update={"temporal_kernel": kernel}), 8, 4, grid)
    assert tmm(torch.randn(2, 8, 4, *grid)).shape == (2, 10, 4, *grid)


@pytest.mark.parametrize("in_dim", [8, 10])
def test_every_parameter_learns(in_dim: int) -> None:
    tmm = awaken(build_tmm(TINY, in_dim, 4, (3, 3)))
    tmm(torch.randn(2, in_dim, 4, 3, 3)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in tmm.parameters())


def test_a_fresh_stack_passes_on_what_it_gets() -> None:
    x = torch.rand(2, 10, 4, 3, 3)
    torch.testing.assert_close(build_tmm(TINY, 10, 4, (3, 3))(x), x)


def test_the_papers_module_has_its_size() -> None:
    """Four blocks of 256 inside and 512 outside on the 768 channels of ViT-B/16; convolutions, then batch norms."""
    block = 512 * 256 * 3 + 256 * 256 * 9 + 256 * 512 + 2 * (256 + 256 + 512)
    first = 768 * 256 * 3 + 256 * 256 * 9 + 256 * 512 + 2 * (256 + 256 + 512) + 768 * 512 + 2 * 512
    assert count(build_tmm(TMMConfig(), 768, 8, (14, 14))) == first + 3 * block


def test_on_a_single_cell_there_are_no_weights_for_space() -> None:
    wide, narrow = (build_tmm(TINY, 10, 4, grid) for grid in [(2, 2), (1, 1)])
    assert count(wide) - count(narrow) == 2 * 6 * 6 * (9 - 1)


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_order_of_frames_counts_only_for_a_kernel_that_spans_them(tiny: tuple[str, ...], kernel: int) -> None:
    # A ViT, whose last layer norm gives features of unit size also where the weights are random.
    settings = ["model.ifm.name=timm:test_vit", "model.sfu.temporal_centering=false"]
    model = build_advise(load(None, [*tiny, *settings, f"model.tmm.temporal_kernel={kernel}"]), 3).eval()
    awaken(model.temporal)
    noise = torch.rand(2, 4, 96, 96, 3, generator=torch.Generator().manual_seed(0))
    clips = (noise * torch.tensor([50, 255, 120, 200]).view(1, 4, 1, 1, 1)).byte()
    with torch.no_grad():
        shift = (model(clips) - model(clips[:, [2, 0, 3, 1]])).abs().max()
    assert shift < 1e-6 if kernel == 1 else shift > 1e-3


def test_the_seed_decides_the_first_weights(tiny: tuple[str, ...]) -> None:
    models = [build_advise(load(None, [*tiny, f"seed={seed}"]), 3) for seed in (0, 0, 1)]
    first, again, other = (model.temporal.state_dict() for model in models)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["tmm.0.branch.0.weight"], other["tmm.0.branch.0.weight"])
    assert len({model.ifm.hash_weights() for model in models}) == 1

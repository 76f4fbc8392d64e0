"""Every kind of temporal module on every kind of image model: shapes, learning, and properties."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from advise_ray.config import HeadConfig, TMMConfig, load
from advise_ray.errors import ConfigError
from advise_ray.model.advise import AdViSe, build_advise
from advise_ray.model.heads import build_pool
from advise_ray.model.tmm import build_tmm

pytestmark = pytest.mark.usefixtures("one_thread")

ARCHS = ["resnet3d", "conv3d", "video_swin", "transformer", "none"]
SFUS = ["{}", "{spatial_size: 1}", "{spatial_size: 2, channels: 8}", "{channels: 8}"]
IFMS = ["timm:test_vit", "timm:test_efficientnet"]


def build(tiny: tuple[str, ...], *settings: str) -> AdViSe:
    return build_advise(load(None, [*tiny, *settings]), 3)


def noise(num_clips: int = 2) -> torch.Tensor:
    return torch.randint(256, (num_clips, 4, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("arch", "sfu", "ifm"), list(itertools.product(ARCHS, SFUS, IFMS)))
def test_every_design_trains_a_step(tiny: tuple[str, ...], arch: str, sfu: str, ifm: str) -> None:
    settings = [f"model.tmm={{arch: {arch}, num_blocks: 2, inner_dim: 16, out_dim: 32}}", f"model.ifm.name={ifm}"]
    centering = f"model.sfu.temporal_centering={str(arch != 'none').lower()}"
    model = build(tiny, *settings, f"model.sfu={sfu}", centering)
    optimizer = torch.optim.AdamW(model.temporal.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in model.temporal.parameters()]
    frozen = model.ifm.hash_weights()
    F.cross_entropy(model(noise()), torch.tensor([0, 2])).backward()
    optimizer.step()
    assert any(not torch.equal(*pair) for pair in zip(before, model.temporal.parameters(), strict=True))
    assert model.ifm.hash_weights() == frozen
    embedding = model.encode(noise())
    assert embedding.shape == (2, 32 if arch != "none" else model.temporal.head[0].in_features)


def sizes(arch: str) -> int:
    """Parameters by hand: two blocks from 12 channels to 16, 8 inside, two heads, a clip of 4 frames of 3×3 cells."""
    layer_norms = 2 * 2 * 16
    mlp = 16 * 8 + 8 + 8 * 16 + 16
    attention = 16 * 48 + 48 + 16 * 16 + 16
    frame = 12 * 16 + 16 + 2 * 16  # the projection before and the layer norm after
    return {
        "resnet3d": sum(d * 8 * 3 + 8 * 8 * 9 + 8 * 16 + 2 * (8 + 8 + 16) for d in (12, 16)) + 12 * 16 + 2 * 16,
        "conv3d": sum(d * 8 * 27 + 8 * 16 * 27 + 2 * (8 + 16) for d in (12, 16)),
        "video_swin": frame + 2 * (layer_norms + mlp + attention + 7 * 13 * 13 * 2),
        "transformer": frame + 2 * (layer_norms + mlp + attention) + 4 * 16 + 9 * 16,
        "none": 0,
    }[arch]


def small(arch: str) -> TMMConfig:
    return TMMConfig(arch=arch, num_blocks=2, inner_dim=8, out_dim=16, num_heads=2)


@pytest.mark.parametrize("arch", ARCHS)
def test_parameters_are_those_of_the_arithmetic(arch: str) -> None:
    tmm = build_tmm(small(arch), 12, 4, (3, 3))
    assert sum(parameter.numel() for parameter in tmm.parameters()) == sizes(arch)


@pytest.mark.parametrize("arch", ["conv3d", "video_swin", "transformer"])
def test_every_parameter_learns(arch: str) -> None:
    tmm = build_tmm(small(arch), 12, 8, (9, 9))
    tmm(torch.randn(2, 12, 8, 9, 9)).square().mul(torch.rand(9)).mean().backward()
    unmoved = [name for name, parameter in tmm.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not unmoved


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("grid", [(1, 1), (3, 3)])
def test_the_order_of_frames_counts(arch: str, grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    tmm = build_tmm(small(arch), 12, 8, grid).eval()
    for parameter in tmm.parameters():  # as after some training: a fresh block may be its shortcut
        parameter.data += 0.3 * torch.randn_like(parameter)
    x = torch.randn(2, 12, 8, *grid)
    with torch.no_grad():
        shift = (tmm(x).mean(2) - tmm(x[:, :, torch.randperm(8)]).mean(2)).abs().max()
    assert shift < 1e-5 if arch == "none" else shift > 1e-3


@pytest.mark.parametrize("arch", ARCHS)
def test_without_a_grid_a_cell_is_enough(arch: str) -> None:
    assert build_tmm(small(arch), 12, 4, (1, 1))(torch.randn(2, 12, 4, 1, 1)).shape[2:] == (4, 1, 1)


def test_attention_pools_what_the_query_looks_for() -> None:
    pool = build_pool(HeadConfig(pooling="attention", num_heads=2), 8)
    x = torch.randn(3, 8, 4, 2, 2)
    assert pool(x).shape == (3, 8)
    torch.testing.assert_close(pool(x), pool(x.flip(2)))  # a set of cells: their order is the TMM's matter
    assert not torch.allclose(pool(x)[0], pool(x)[1])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["model.tmm.arch=none"], "model.sfu.temporal_centering: must be false with model.tmm.arch=none"),
        (
            ["model.tmm={arch: transformer, out_dim: 36, num_heads: 8}"],
            r"model.tmm: out_dim \(36\) must be a multiple of num_heads \(8\)",
        ),
        (["model.head={pooling: attention, num_heads: 5}"], "model.head.num_heads: 5 does not divide the 32 channels"),
    ],
)
def test_what_does_not_fit_together_is_refused(tiny: tuple[str, ...], settings: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        build(tiny, *settings)


def test_the_rival_has_its_size_and_trains(tiny: tuple[str, ...]) -> None:
    model = build(tiny, "model.kind=r3d50", "model.head.num_layers=1")
    head = 2048 * 3 + 3
    # Slow-R50: 31.6 million with a head of four classes.
    assert sum(parameter.numel() for parameter in model.temporal.parameters()) - head == pytest.approx(31.634e6, 1e-4)
    assert not list(model.ifm.parameters())
    F.cross_entropy(model(noise()), torch.tensor([0, 2])).backward()
    assert all(parameter.grad is not None for parameter in model.temporal.parameters())


def test_the_rival_sees_normalised_pixels(tiny: tuple[str, ...]) -> None:
    model = build(tiny, "model.kind=r3d50")
    clips = noise()
    expected = (clips.float() / 255 - 0.45) / 0.225
    torch.testing.assert_close(model.features(clips), expected.permute(0, 4, 1, 2, 3), atol=1e-5, rtol=1e-5)

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from advise_ray.config import SFUConfig
from advise_ray.errors import ConfigError
from advise_ray.model.sfu import SFU, output_shape


def compress(features: torch.Tensor, **settings) -> torch.Tensor:
    return SFU(SFUConfig(**{"temporal_centering": False, **settings}))(features)


def features(num_clips: int = 2, num_frames: int = 3, channels: int = 6, grid: tuple[int, int] = (7, 7)):
    return torch.randn(num_clips, num_frames, channels, *grid, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("grid", [(7, 7), (8, 8), (6, 9)])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_space_is_pooled_within_each_frame(size: int, grid: tuple[int, int]) -> None:
    frames = features(grid=grid)
    pooled = compress(frames, spatial_size=size)
    assert pooled.shape == (2, 6, 3, size, size)
    for clip in range(2):
        for frame in range(3):
            torch.testing.assert_close(pooled[clip, :, frame], F.adaptive_avg_pool2d(frames[clip, frame], size))


def test_channels_are_averaged_with_their_neighbours() -> None:
    frames = features()
    pooled = compress(frames, channels=3)
    assert pooled.shape == (2, 3, 3, 7, 7)
    torch.testing.assert_close(pooled[1, 2, 0], (frames[1, 0, 4] + frames[1, 0, 5]) / 2)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5))
def test_both_poolings_give_the_shape_that_is_announced(dim: int, channels: int, grid_px: int, size: int) -> None:
    config = SFUConfig(spatial_size=min(size, grid_px), channels=min(channels, dim))
    out = SFU(config)(features(1, 2, dim, (grid_px, grid_px)))
    assert (out.shape[1], tuple(out.shape[3:])) == output_shape(config, dim, (grid_px, grid_px))


def test_where_nothing_is_asked_nothing_is_changed() -> None:
    frames = features(grid=(5, 7))
    torch.testing.assert_close(compress(frames), frames.transpose(1, 2), rtol=0, atol=0)
    assert output_shape(SFUConfig(), 6, (5, 7)) == (6, (5, 7))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("settings", [{}, {"spatial_size": 2, "channels": 3, "temporal_centering": True}])
def test_what_is_trained_gets_fp32(dtype: torch.dtype, settings: dict[str, object]) -> None:
    assert compress(features().to(dtype), **settings).dtype == torch.float32


@pytest.mark.parametrize("centres", [False, True])
def test_bf16_is_that_which_autocast_would_make_of_fp32(centres: bool) -> None:
    frames = features().half().transpose(1, 2)
    sfu = SFU(SFUConfig(temporal_centering=centres))
    torch.testing.assert_close(sfu.arrange(frames, torch.bfloat16), sfu.arrange(frames).bfloat16(), rtol=0, atol=0)
    assert SFU(sfu.config, exact=True).arrange(frames, torch.bfloat16).dtype == torch.float32


@pytest.mark.parametrize("settings", [{}, {"spatial_size": 3}, {"channels": 2}, {"spatial_size": 3, "channels": 2}])
def test_centering_leaves_what_moves(settings: dict[str, object]) -> None:
    frames = features(num_frames=5)
    centred = compress(frames, temporal_centering=True, **settings)
    torch.testing.assert_close(centred.mean(2), torch.zeros_like(centred[:, :, 0]))
    plain = compress(frames, **settings)
    torch.testing.assert_close(centred.diff(dim=2), plain.diff(dim=2))
    appearance = 10 * features(num_frames=1)
    torch.testing.assert_close(
        compress(frames + appearance, temporal_centering=True, **settings), centred, rtol=1e-4, atol=1e-4
    )


def test_a_clip_that_stands_still_is_nothing_once_centred() -> None:
    still = features(num_frames=1).expand(-1, 4, -1, -1, -1).bfloat16()
    assert not compress(still, temporal_centering=True).any()


def test_more_than_the_image_model_gives_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        output_shape(SFUConfig(channels=321, spatial_size=8), 320, (7, 9))
    assert caught.value.problems == (
        "model.sfu.channels: 321 is more than the image model's 320 channels",
        "model.sfu.spatial_size: 8 is larger than the image model's 7×9 grid",
    )

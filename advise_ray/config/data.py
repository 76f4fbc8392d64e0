"""Keys of `data`, `augment` and `cache`: the videos, how clips are sampled, augmentation, and feature caches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from advise_ray.config.section import Cpus, Fraction, Location, Positive, Section, absolute


class ClipConfig(Section):
    """How the frames of a clip are sampled from a video."""

    num_frames: Annotated[int, Field(gt=1)] = 8
    """Number of frames in a clip (T)."""
    frame_stride: Positive | None = 2
    """Distance between two frames of a clip at playback rate 1, in frames of the file. Must be unset if `sample_fps`
    is set."""
    sample_fps: Annotated[float, Field(gt=0)] | None = None
    """Frames that a clip takes from each second of video at playback rate 1, independent of the file's frame rate. Use
    it instead of `frame_stride`. No frame is taken twice: a file with a lower frame rate plays faster, and is left out
    of validation."""
    clips_per_video: Positive = 4
    """Clips sampled from each video in every epoch (K). All clips of a video go into the same batch."""
    rates: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0, 2.0, 4.0, 8.0), min_length=2)
    """Playback rates that the model learns to tell apart, in ascending order. The position of a rate in the list is its
    class. `task: action` ignores this key: it plays all clips at rate 1."""
    rate_jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """The rate of each clip is multiplied by 1 + u, with u uniform between minus and plus this value."""
    short_video: Literal["fit", "wrap", "hold"] = "fit"
    """What happens if a clip would be longer than its video. `fit` samples only rates that fit, and repeats the last
    frame if none fits; `wrap` continues at the start of the video, as the paper does; `hold` repeats the last frame."""

    @model_validator(mode="before")
    @classmethod
    def _frames_or_time(cls, values: Any) -> Any:
        """Unset the default `frame_stride` if only `sample_fps` is given."""
        if isinstance(values, dict) and values.get("sample_fps") is not None and "frame_stride" not in values:
            return {**values, "frame_stride": None}
        return values

    @model_validator(mode="after")
    def _either(self) -> ClipConfig:
        if (self.frame_stride is None) == (self.sample_fps is None):
            raise ValueError("set exactly one of frame_stride and sample_fps, and the other to null")
        return self

    @model_validator(mode="after")
    def _rates_differ(self) -> ClipConfig:
        if any(slow >= fast for slow, fast in zip(self.rates, self.rates[1:], strict=False)):
            raise ValueError(f"rates must be in ascending order, got {', '.join(f'{rate:g}' for rate in self.rates)}")
        # The sampler never steps by less than one frame, so two rates below that would give the same clips.
        if self.frame_stride is not None and self.frame_stride * self.rates[0] < 1:
            raise ValueError(
                f"frame_stride ({self.frame_stride}) × the slowest rate ({self.rates[0]:g}) must be at least 1"
            )
        return self


class DataConfig(Section):
    """The videos, their splits, and how they are decoded."""

    manifest: str | tuple[str, ...] | None = None
    """Manifest (Parquet), written by `advise-ray data index`, or a list of manifests, to pretrain on several data sets
    together. All videos of a manifest without splits are training videos. A file that one of the manifests holds out
    for validation or testing is never trained on."""
    train_split: str = "train"
    """Value of the manifest's split column that marks the training videos."""
    val_split: str | None = "val"
    """Value of the split column that marks the validation videos. If no row has it, `val` or `validation` is used. If
    this key is unset, or no row has any of these values, `val_fraction` of the training videos is used."""
    test_split: str = "test"
    """Value of the split column that marks the test videos of `advise-ray evaluate`. If no row has it, `val` or
    `validation` is used."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Fraction of the training videos that is held out for validation if `val_split` selects no videos. A hash of
    each video's group, or else of its video_id, selects them. Videos cut from one recording (UCF101's groups) stay
    together."""
    val_clips_per_rate: Positive = 3
    """Number of validation clips for each video and each rate. `task: action` has one rate."""
    num_decode_actors: Positive | None = None
    """Number of decode actors (decoding processes). If unset, the planner chooses: with GPUs, one for each CPU that the
    workers leave free; without GPUs, one for every four CPUs."""
    cpus_per_decode_actor: Cpus | None = None
    """CPUs that each decode actor reserves. If unset, the planner chooses."""
    max_clips_in_flight: Positive = 512
    """Maximum number of decoded clips that wait for the workers. It limits how much of Ray's object store a run
    uses."""
    features: Location | None = None
    """Feature cache, written by `advise-ray cache`: a folder or a URL. If set, training reads the features of each clip
    from it and does not run the image model."""
    decode_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Maximum time to decode the clips of one video, in seconds. After it the video counts as failed."""
    max_pixels: Positive = 8192 * 4320
    """Maximum size of a frame, in pixels (width × height). A video with larger frames is not decoded and counts as
    failed."""
    max_failed_fraction: Fraction = 0.1
    """The run stops if more than this fraction of the manifest's videos cannot be decoded."""
    deterministic: bool = False
    """Use torch's deterministic kernels, so that equal batches give equal losses on the same hardware. If an operation
    has no such kernel, a note names it at the end of the run."""
    log_clips: bool = False
    """Write `clips/*.parquet`: a row for each training clip, with its frame numbers."""
    clip: ClipConfig = ClipConfig()

    @field_validator("manifest", mode="before")
    @classmethod
    def _one_or_a_list(cls, value: Any) -> str | tuple[str, ...] | None:
        if value is None or isinstance(value, str):
            return absolute(value) if value is not None else None
        if not isinstance(value, (list, tuple)) or not value or not all(isinstance(each, str) for each in value):
            raise ValueError(
                f"data.manifest: expected a path (a.parquet) or a list of paths ([a.parquet, b.parquet]), got {value!r}"
            )
        return tuple(absolute(each) for each in value)

    @property
    def manifests(self) -> tuple[Path, ...]:
        """The manifests' paths; empty if `manifest` is unset."""
        if self.manifest is None:
            return ()
        return (Path(self.manifest),) if isinstance(self.manifest, str) else tuple(map(Path, self.manifest))


class AugmentConfig(Section):
    """Augmentation of pixels. All frames of a clip get the same random values. Validation uses only the centre crop."""

    resize_height_px: Positive = 256
    """Height of decoded frames, in pixels."""
    resize_width_px: Positive = 320
    """Width of decoded frames, in pixels."""
    crop_size_px: Positive = 224
    """Side of the square crop that the image model gets, in pixels."""
    random_crop: bool = True
    """Crop training clips at a random position; if false, at the centre."""
    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] | None = None
    """Minimum and maximum area of a random crop, as a fraction of the frame's area. Its aspect ratio is between 3:4 and
    4:3, and it is resized to `crop_size_px`. If unset, each crop is `crop_size_px` wide and high."""
    flip: bool = True
    """Mirror a clip horizontally with probability 0.5. Set it to false if classes differ in left and right."""
    colour_jitter: Fraction = 0.8
    """Probability that the colours of a clip are changed."""
    brightness: Fraction = 0.2
    """Brightness is multiplied by a factor between 1 minus and 1 plus this value."""
    contrast: Fraction = 0.2
    """Contrast is multiplied by a factor between 1 minus and 1 plus this value."""
    saturation: Fraction = 0.2
    """Saturation is multiplied by a factor between 1 minus and 1 plus this value."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Hue is rotated by at most this fraction of the colour circle, in either direction."""
    grey: Fraction = 0.0
    """Probability that a clip is converted to greyscale."""
    rand_augment_ops: Annotated[int, Field(ge=0)] = 0
    """Number of random RandAugment operations that are applied to a clip."""
    rand_augment_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of the RandAugment operations, from 0 to 30."""

    @model_validator(mode="after")
    def _crop_fits(self) -> AugmentConfig:
        smaller = min(self.resize_height_px, self.resize_width_px)
        if self.crop_size_px > smaller:
            raise ValueError(f"crop_size_px ({self.crop_size_px}) must not exceed the resized frame ({smaller} px)")
        return self

    @model_validator(mode="after")
    def _scale_ascends(self) -> AugmentConfig:
        if self.crop_scale is not None and self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale must be [min, max], got {self.crop_scale[0]:g}, {self.crop_scale[1]:g}")
        if self.crop_scale is not None and not self.random_crop:
            raise ValueError("crop_scale needs random crops; unset it, or set random_crop to true")
        return self


class CacheConfig(Section):
    """What `advise-ray cache` stores for each video. Training ignores these keys and uses a cache as it is."""

    frame_step: Positive = 1
    """The cache stores one frame in this many. Clips use only stored frames."""
    views: Positive = 1
    """Number of views of each video: the first is the centre crop, which validation uses; each other view is augmented
    by `augment` once. A training clip uses a random view."""

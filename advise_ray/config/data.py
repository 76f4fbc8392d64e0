"""Keys of `data` and `augment`: which videos, which frames, and what happens to their pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from advise_ray.config.section import Cpus, Fraction, Location, Positive, Section, absolute


class ClipConfig(Section):
    """How a clip's frames are drawn from a video."""

    num_frames: Annotated[int, Field(gt=1)] = 8
    """Frames of a clip (T)."""
    frame_stride: Positive | None = 2
    """Source frames from one frame of a clip to the next, at playback rate 1. Unset where `sample_fps` is given."""
    sample_fps: Annotated[float, Field(gt=0)] | None = None
    """Frames per second of video time that a clip takes at playback rate 1, whatever the file's own; instead of
    `frame_stride`. No frame is taken twice: a file with fewer frames plays faster, and is not validated on."""
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

    @model_validator(mode="before")
    @classmethod
    def _frames_or_time(cls, values: Any) -> Any:
        """`sample_fps` alone takes the place of the default stride."""
        if isinstance(values, dict) and values.get("sample_fps") is not None and "frame_stride" not in values:
            return {**values, "frame_stride": None}
        return values

    @model_validator(mode="after")
    def _either(self) -> ClipConfig:
        if (self.frame_stride is None) == (self.sample_fps is None):
            raise ValueError("give either frame_stride or sample_fps; unset the other (null)")
        return self

    @model_validator(mode="after")
    def _rates_differ(self) -> ClipConfig:
        if any(slow >= fast for slow, fast in zip(self.rates, self.rates[1:], strict=False)):
            raise ValueError(f"rates must ascend, got {', '.join(f'{rate:g}' for rate in self.rates)}")
        # Sampling never goes below 1: the slowest rates would be one.
        if self.frame_stride is not None and self.frame_stride * self.rates[0] < 1:
            raise ValueError(
                f"frame_stride ({self.frame_stride}) × the slowest rate ({self.rates[0]:g}) must be at least 1"
            )
        return self


class DataConfig(Section):
    """Which videos, and who decodes them."""

    manifest: str | tuple[str, ...] | None = None
    """Parquet manifest, made by `advise-ray data index`, or a list of them: a pool, to pretrain on much footage. One
    without any split is all training videos; a file that one of them holds out is not trained on."""
    train_split: str = "train"
    """Value of the manifest's split column that is trained on."""
    val_split: str | None = "val"
    """Value of the split column that is validated on; where no row has it, `val` or `validation`. Unset, or where there
    is none of these, `val_fraction` is carved out of train."""
    test_split: str = "test"
    """Value of the split column that `advise-ray evaluate` tests on; where no row has it, `val` or `validation`."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training videos held out for validation, by hash of video_id, where `val_split` has no videos.
    Clips of one recording (UCF101's groups) stay together."""
    val_clips_per_rate: Positive = 3
    """Validation clips of each video at each rate; `task: action` has the one rate."""
    num_decode_actors: Positive | None = None
    """Decoding processes; unset, the planner gives them the CPUs that the workers leave."""
    cpus_per_decode_actor: Cpus | None = None
    """CPUs that a decoding process reserves."""
    max_clips_in_flight: Positive = 512
    """Decoded clips that may wait for the workers: bounds the object store that a run uses."""
    features: Location | None = None
    """A feature cache, made by `advise-ray cache`: a folder, or the URL of one. Clips are then taken from it, and the
    image model does not run."""
    decode_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds that the clips of one video may take to decode; then the video counts as failed."""
    max_pixels: Positive = 8192 * 4320
    """Videos with larger pictures count as failed; they are not decoded."""
    max_failed_fraction: Fraction = 0.1
    """The run stops when more than this share of the manifest's videos cannot be decoded."""
    deterministic: bool = False
    """Ask torch for deterministic kernels, so that equal batches give equal losses on the same hardware."""
    log_clips: bool = False
    """Write `clips/*.parquet`: each clip that was trained on, with its frames."""
    clip: ClipConfig = ClipConfig()

    @field_validator("manifest", mode="before")
    @classmethod
    def _one_or_a_list(cls, value: Any) -> str | tuple[str, ...] | None:
        if value is None or isinstance(value, str):
            return absolute(value) if value is not None else None
        if not isinstance(value, (list, tuple)) or not value or not all(isinstance(each, str) for each in value):
            raise ValueError(
                f"data.manifest: {value!r} is no path and no list; give a.parquet, or [a.parquet, b.parquet]"
            )
        return tuple(absolute(each) for each in value)

    @property
    def manifests(self) -> tuple[Path, ...]:
        """The manifests, none where none is named."""
        if self.manifest is None:
            return ()
        return (Path(self.manifest),) if isinstance(self.manifest, str) else tuple(map(Path, self.manifest))


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


class CacheConfig(Section):
    """What `advise-ray cache` keeps of a video. A training run takes a cache as it is."""

    frame_step: Positive = 1
    """Every so many frames are kept; clips are drawn on this grid."""
    views: Positive = 1
    """Views of each video: the centre crop, as validation sees it, and others under one draw of `augment` each. A
    training clip shows one of them, by lot."""

"""The whole configuration: its sections, and what has to fit between them."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from advise_ray.config.data import AugmentConfig, CacheConfig, ClipConfig, DataConfig
from advise_ray.config.model import ModelConfig
from advise_ray.config.search import Space, TuneConfig
from advise_ray.config.section import Cpus, LocalPath, Positive, Section


class PretextConfig(Section):
    """What pretraining predicts beside the playback rate (`task: prp`)."""

    masked_frames: Annotated[int, Field(ge=0)] = 0
    """Frames of each clip that are hidden, by lot, and predicted: their features, from the TMM's output. 0: none."""
    masked_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of that loss beside PRP's."""


class OptimConfig(Section):
    """AdamW and its schedule, which is a function of the step."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate, as it is used: nothing scales it. (The paper: 1e-3 × videos per step / 64.)"""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6
    """AdamW's weight decay."""
    tmm_lr_factor: Annotated[float, Field(gt=0)] = 1.0
    """The TMM's learning rate as a share of `lr`: a pretrained one may need a smaller rate than its fresh head."""
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
    num_workers: Positive | tuple[Positive, Positive] = 1
    """Ray Train workers; [min, max]: as many as there is room for, fewer when nodes leave, more when they come."""
    cpus_per_worker: Cpus | None = None
    """CPUs that a worker reserves; unset, the planner shares them out."""
    use_gpu: bool | None = None
    """One GPU for each worker; unset: where there are enough of them."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the trained part; bf16 is autocast where the device has it (see `model.ifm.precision`), the weights
    stay fp32."""
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
    grace_s: Annotated[float, Field(ge=0)] = 60.0
    """Seconds that a run, a sweep or a cache job takes at most to save what it has after SIGTERM or Ctrl-C; a second
    one ends it at once."""
    max_wait_s: Annotated[float, Field(ge=0)] = 3600.0
    """How long the run waits for CPUs and GPUs that others hold, or that are to come, before it ends; 0: for ever."""

    @property
    def worker_range(self) -> tuple[int, int]:
        """The fewest and the most workers."""
        counts = self.num_workers
        return counts if isinstance(counts, tuple) else (counts, counts)


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

    path: LocalPath = Field("runs", validate_default=True)
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
    pretext: PretextConfig = PretextConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    cache: CacheConfig = CacheConfig()
    tracking: TrackingConfig = TrackingConfig()
    secrets: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = ()
    """Environment variables that a job on a cluster gets from here: their names, never their values."""
    storage: StorageConfig = Field(default_factory=StorageConfig)  # its default depends on the working directory
    search: dict[str, Space] = Field({})
    """Of `advise-ray tune`: key → what it may be, {grid: [values]} (or choice), {uniform: [low, high]} (or loguniform,
    or randint), {quniform: [low, high, step]}, or {given: another key, cases: {its value: one of these}}."""
    tune: TuneConfig = TuneConfig()

    @field_validator("search", mode="before")
    @classmethod
    def _dotted(cls, search: Any) -> Any:
        """Keys may be nested, as everywhere: what is not a space by its names is a section of keys."""

        def walk(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
            for name, value in tree.items():
                if isinstance(value, dict) and not set(value) & set(Space.model_fields):
                    yield from walk(value, f"{prefix}{name}.")
                else:
                    yield prefix + str(name), value

        return dict(walk(search, "")) if isinstance(search, dict) else {} if search is None else search

    @model_validator(mode="after")
    def _batch_divides(self) -> Config:
        unit, (least, most) = self.data.clip.clips_per_video, self.train.worker_range
        if least > most:
            raise ValueError(f"train.num_workers: [{least}, {most}] is [min, max]; min is above max")
        for workers in (least, most):
            if self.train.global_batch_size % (unit * workers):
                raise ValueError(
                    f"train.global_batch_size: {self.train.global_batch_size} clips cannot be shared equally by "
                    f"{workers} worker(s) in whole videos of {unit} clips; use a multiple of {unit * workers}"
                )
        return self

    @model_validator(mode="after")
    def _norms_have_several(self) -> Config:
        """The head's batch norm needs two clips in a step; the TMM's has the cells and frames of one."""
        head = self.model.head
        if self.train.global_batch_size == 1 and (head.num_layers > 1 or head.normalise):
            raise ValueError(
                "train.global_batch_size: 1 clip a step is too few for the head's batch norm; use 2 or more, or "
                "model.head.num_layers=1 and model.head.normalise=false"
            )
        return self

    @model_validator(mode="after")
    def _frames_are_left(self) -> Config:
        masked, num_frames = self.pretext.masked_frames, self.data.clip.num_frames
        if masked >= num_frames:
            raise ValueError(f"pretext.masked_frames: {masked} of {num_frames} frames; leave one to predict from")
        if masked and self.task != "prp":
            raise ValueError("pretext.masked_frames: is for task=prp; set it to 0")
        if masked and self.model.kind == "r3d50":
            raise ValueError("pretext.masked_frames: model.kind=r3d50 has no frozen features to predict; set it to 0")
        return self

    @model_validator(mode="after")
    def _features_are_an_image_models(self) -> Config:
        if self.data.features is not None and self.model.kind == "r3d50":
            raise ValueError("data.features: model.kind=r3d50 learns from pixels; unset it")
        return self


def videos_per_step(config: Config) -> int:
    """Videos whose clips make up one step over all workers."""
    return config.train.global_batch_size // config.data.clip.clips_per_video


def worker_counts(config: Config) -> list[int]:
    """The numbers of workers that a run may have, most first: those that share a step equally, in whole videos."""
    least, most = config.train.worker_range
    return [count for count in range(most, least - 1, -1) if videos_per_step(config) % count == 0]


def played_clip(config: Config) -> ClipConfig:
    """How clips are drawn for the task: actions are shown as they were filmed, at rate 1."""
    if config.task == "prp":
        return config.data.clip
    return config.data.clip.model_copy(update={"rates": (1.0,), "rate_jitter": 0.0})

"""The whole configuration: all sections, and the checks across sections."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from advise_ray.config.data import AugmentConfig, CacheConfig, ClipConfig, DataConfig
from advise_ray.config.model import ModelConfig
from advise_ray.config.search import Space, TuneConfig
from advise_ray.config.section import Cpus, LocalPath, Positive, Section, absolute


class PretextConfig(Section):
    """What pretraining predicts in addition to the playback rate (`task: prp`)."""

    masked_frames: Annotated[int, Field(ge=0)] = 0
    """Number of random frames of each clip that are masked; the model predicts their features from the TMM's output.
    0 disables this loss."""
    masked_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of this loss relative to the loss of playback-rate prediction."""


class OptimConfig(Section):
    """AdamW and its learning-rate schedule, which depends only on the step."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate. It is not scaled by the batch size. (The paper uses 1e-3 × videos per step / 64.)"""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6
    """AdamW's weight decay."""
    tmm_lr_factor: Annotated[float, Field(gt=0)] = 1.0
    """The TMM's learning rate is `lr` times this factor. A pretrained TMM may need a smaller rate than its new head."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 5
    """Number of epochs in which the learning rate rises linearly from 0."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning-rate schedule after the warm-up: `cosine` decay, or `constant`."""
    grad_clip: Annotated[float, Field(gt=0)] | None = 5.0
    """Maximum norm of the gradients; larger gradients are scaled down. If unset, gradients are not clipped."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Label smoothing of the training loss."""


class TrainConfig(Section):
    """Length of training, its resources, its checkpoints, and how it handles failures."""

    epochs: Positive = 100
    """Number of passes over the training videos."""
    global_batch_size: Positive = 32
    """Clips in one step, over all workers. Must be a multiple of `data.clip.clips_per_video` × `num_workers`."""
    num_workers: Positive | tuple[Positive, Positive] = 1
    """Number of Ray Train workers. With [min, max], the run uses as many workers as fit, fewer after nodes leave, and
    more after nodes join."""
    cpus_per_worker: Cpus | None = None
    """CPUs that each worker reserves. If unset, the planner chooses."""
    use_gpu: bool | None = None
    """Give each worker one GPU. If unset, workers get GPUs if there are enough."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the trained part. `bf16` uses autocast if the device supports it (see `model.ifm.precision`); the
    weights stay in fp32."""
    val_every_epochs: Positive = 1
    """Number of epochs from one validation to the next. The last epoch is always validated."""
    checkpoint_every_epochs: Positive = 1
    """Number of epochs from one checkpoint to the next. A checkpoint is always saved after the last epoch."""
    checkpoint_every_steps: Positive | None = None
    """Number of steps after which an additional checkpoint is saved. If unset, none."""
    keep_checkpoints: Positive = 2
    """Number of latest checkpoints to keep, in addition to the best one."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How many times the run restarts from its last checkpoint after a worker died."""
    grace_s: Annotated[float, Field(ge=0)] = 60.0
    """Maximum time that a run, a sweep or a cache job takes to save its state after SIGTERM or Ctrl-C, in seconds. A
    second signal ends it at once."""
    max_wait_s: Annotated[float, Field(ge=0)] = 3600.0
    """Maximum time that the run waits for CPUs and GPUs that are in use or not there yet, in seconds. Then it ends with
    an error. 0 waits for ever."""

    @property
    def worker_range(self) -> tuple[int, int]:
        """The minimum and the maximum number of workers."""
        counts = self.num_workers
        return counts if isinstance(counts, tuple) else (counts, counts)


MLFLOW_VARIABLES = {"uri": "MLFLOW_TRACKING_URI", "experiment": "MLFLOW_EXPERIMENT_NAME"}


def _expand_home(uri: str) -> str:
    """Expand `~` in a path, or in the path of an SQLite file."""
    scheme = "sqlite:///" if uri.startswith("sqlite:///") else ""
    path = uri.removeprefix(scheme)
    return scheme + absolute(path) if path.startswith("~") else uri


class TrackingConfig(Section):
    """Where MLflow records the run."""

    uri: Annotated[str, AfterValidator(_expand_home)] | None = None
    """MLflow tracking URI. If a recipe does not set it: the environment variable MLFLOW_TRACKING_URI, or else
    `mlflow.db` (SQLite) in `storage.path`."""
    experiment: Annotated[str, Field(min_length=1)] = "advise-ray"
    """Name of the MLflow experiment. If a recipe does not set it, MLFLOW_EXPERIMENT_NAME has priority."""
    run_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Name of the run and of its directory. If unset: made from the task, the date and the time."""

    @model_validator(mode="before")
    @classmethod
    def _from_environment(cls, values: Any) -> Any:
        """Use MLflow's own environment variables for keys that are not set."""
        if not isinstance(values, dict | None):
            return values
        found = {key: os.environ.get(variable, "").strip() for key, variable in MLFLOW_VARIABLES.items()}
        return {key: value for key, value in found.items() if value} | (values or {})

    @model_validator(mode="after")
    def _no_password(self) -> TrackingConfig:
        uri = urllib.parse.urlsplit(self.uri or "")
        if uri.password is not None or "password" in urllib.parse.parse_qs(uri.query):
            named = "MLFLOW_TRACKING_URI" if self.uri == os.environ.get("MLFLOW_TRACKING_URI") else "uri"
            raise ValueError(
                f"{named} must not contain a password, because the URI is logged; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        return self


class StorageConfig(Section):
    """Where run directories are written."""

    path: LocalPath = Field("runs", validate_default=True)
    """Directory of the runs. On a cluster, all nodes must share it."""


class Config(Section):
    """Everything that a run depends on."""

    task: Literal["prp", "action"] = "prp"
    """`prp`: predict the playback rate; `action`: classify videos by the manifest's classes."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of all random numbers."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    pretext: PretextConfig = PretextConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    cache: CacheConfig = CacheConfig()
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)  # its defaults depend on the environment
    secrets: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = ()
    """Names (not values) of local environment variables that are passed to a job on a cluster."""
    storage: StorageConfig = Field(default_factory=StorageConfig)  # its default depends on the working directory
    search: dict[str, Space] = Field({})
    """Search space of `advise-ray tune`. It maps each searched key to {grid: [values]} (or choice), {uniform: [low,
    high]} (or loguniform, or randint), {quniform: [low, high, step]}, or {given: another key, cases: {value of that
    key: one of these spaces}}."""
    tune: TuneConfig = TuneConfig()

    @field_validator("search", mode="before")
    @classmethod
    def _dotted(cls, search: Any) -> Any:
        """Flatten nested keys: a mapping without any of the names of a `Space` is a section of keys."""

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
            raise ValueError(f"train.num_workers: must be [min, max] with min ≤ max, got [{least}, {most}]")
        for workers in (least, most):
            if self.train.global_batch_size % (unit * workers):
                raise ValueError(
                    f"train.global_batch_size: must be a multiple of {unit * workers} "
                    f"(data.clip.clips_per_video {unit} × num_workers {workers}), got {self.train.global_batch_size}"
                )
        return self

    @model_validator(mode="after")
    def _norms_have_several(self) -> Config:
        """Check that a step has at least two clips if the head uses batch norm. The TMM's norms need only one clip."""
        head = self.model.head
        if self.train.global_batch_size == 1 and (head.num_layers > 1 or head.normalise):
            raise ValueError(
                "train.global_batch_size: the head's batch norm needs at least 2 clips per step, got 1; use 2 or more, "
                "or set model.head.num_layers=1 and model.head.normalise=false"
            )
        return self

    @model_validator(mode="after")
    def _frames_are_left(self) -> Config:
        masked, num_frames = self.pretext.masked_frames, self.data.clip.num_frames
        if masked >= num_frames:
            raise ValueError(f"pretext.masked_frames: must be below data.clip.num_frames ({num_frames}), got {masked}")
        if masked and self.task != "prp":
            raise ValueError("pretext.masked_frames: needs task=prp; set it to 0")
        if masked and self.model.kind == "r3d50":
            raise ValueError("pretext.masked_frames: model.kind=r3d50 has no frozen features to predict; set it to 0")
        return self

    @model_validator(mode="after")
    def _features_are_an_image_models(self) -> Config:
        if self.data.features is not None and self.model.kind == "r3d50":
            raise ValueError("data.features: model.kind=r3d50 trains on pixels, not on features; unset data.features")
        return self


def videos_per_step(config: Config) -> int:
    """Return the number of videos in one step, over all workers."""
    return config.train.global_batch_size // config.data.clip.clips_per_video


def worker_counts(config: Config) -> list[int]:
    """Return the possible numbers of workers, largest first: each gives all workers equally many whole videos."""
    least, most = config.train.worker_range
    return [count for count in range(most, least - 1, -1) if videos_per_step(config) % count == 0]


def played_clip(config: Config) -> ClipConfig:
    """Return how clips are sampled for the task. Action recognition plays clips at rate 1, without jitter."""
    if config.task == "prp":
        return config.data.clip
    return config.data.clip.model_copy(update={"rates": (1.0,), "rate_jitter": 0.0})

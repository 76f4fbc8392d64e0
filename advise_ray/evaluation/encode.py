"""The frozen road from clips to numbers, on Ray Data: every video once, each of its frames decoded and encoded once.

The clips of a video that is evaluated share frames (ten clips spread over two seconds, the same clip shuffled), and
nothing is drawn by lot: so a frame goes through the image model once, whatever the number of clips that show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from numpy.typing import NDArray
from ray.data import DataContext

from advise_ray import runtime, threads
from advise_ray.config import Config
from advise_ray.errors import EvaluationError
from advise_ray.evaluation.frames import DecodeFrames
from advise_ray.model.advise import AdViSe, empty_advise
from advise_ray.training.plan import Shares
from advise_ray.video.augment import view_crops
from advise_ray.video.manifest import Video

Output = Literal["logits", "embedding", "tokens"]
"""Per clip and crop: float[classes], float[E], or what the TMM gives, float[E, T, s, s]."""
FRAMES_AT_ONCE = 128


@dataclass(frozen=True)
class Encoded:
    """What the model says of one video.

    Attributes:
        row: of the manifest.
        values: float32[K, crops, …], see `Output`; None where the video could not be decoded.
        failure: why not.
    """

    row: int
    values: NDArray[np.float32] | None
    failure: str | None


@dataclass(frozen=True)
class Encoder:
    """A model at work on a manifest's videos."""

    config: Config
    model: AdViSe
    num_classes: int
    videos: Sequence[Video]
    shares: Shares

    def encode(
        self,
        clips: dict[int, NDArray[np.int64]],
        output: Output,
        num_crops: int = 1,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[int, Encoded]:
        """Decode and encode clips.

        Args:
            clips: row of the manifest → int64[K, T], frames of the video.
            num_crops: squares along the longer side; one is the centre.

        Raises:
            EvaluationError: too many videos cannot be decoded; or a video is missing or came twice.
        """
        outcomes: dict[int, Encoded] = {}
        for outcome in self._stream(clips, output, num_crops):
            if outcome.row in outcomes or outcome.row not in clips:
                raise EvaluationError(
                    f"{self.videos[outcome.row].video_id} came twice: this is a bug, please report it"
                )
            outcomes[outcome.row] = outcome
            on_progress(len(outcomes), len(clips))
        if missing := clips.keys() - outcomes.keys():
            raise EvaluationError(f"{len(missing)} videos were lost on the way: this is a bug, please report it")
        failed = [outcome for outcome in outcomes.values() if outcome.failure is not None]
        if len(failed) > self.config.data.max_failed_fraction * len(clips):
            raise EvaluationError(
                f"{len(failed)} of {len(clips)} videos cannot be decoded, more than data.max_failed_fraction="
                f"{self.config.data.max_failed_fraction} allows; such as {self.videos[failed[0].row].video_id}: "
                f"{failed[0].failure}"
            )
        return outcomes

    def _stream(self, clips: dict[int, NDArray[np.int64]], output: Output, num_crops: int) -> Iterator[Encoded]:
        runtime.connect()
        shares = self.shares
        rows = [
            pa.Table.from_pylist([{**vars(self.videos[row]), "row": row, "clips": wanted.ravel()}])
            for row, wanted in clips.items()
        ]
        context = DataContext.get_current().copy()
        context.target_max_block_size = 1  # a video is a block, and goes on as soon as it is decoded
        context.downstream_capacity_backpressure_ratio = None
        with DataContext.current(context):
            decoded = ray.data.from_arrow(rows).map_batches(
                DecodeFrames,
                fn_constructor_args=(self.config,),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=shares.num_decode_actors),
                num_cpus=shares.cpus_per_decode_actor,
            )
            for block in self._encoded(decoded, output, num_crops):
                for row, values, failure in zip(block["row"], block["values"], block["failure"], strict=True):
                    yield Encoded(int(row), None if failure else np.array(values), str(failure) or None)

    def _encoded(self, decoded: ray.data.Dataset, output: Output, num_crops: int) -> Iterable[dict[str, NDArray[Any]]]:
        """By actors; a single model on CPUs needs none, and this process has it: no other one has to start."""
        config, shares = self.config, self.shares
        if shares.num_workers == 1 and not shares.use_gpu:
            return map(_Encode(config, self.model, output, num_crops, torch.device("cpu")), _read(decoded))
        encoded = decoded.map_batches(
            _EncodeActor,
            fn_constructor_args=(config, self.num_classes, [ray.put(self.model.state_dict())], output, num_crops),
            batch_size=None,
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(size=shares.num_workers),
            num_cpus=shares.cpus_per_worker,
            num_gpus=1 if shares.use_gpu else 0,
            runtime_env={"env_vars": threads.ENVIRONMENT},
        )
        return _read(encoded)


def _read(dataset: ray.data.Dataset) -> Iterable[dict[str, NDArray[Any]]]:
    """One block after the other. Split in one, the work is led by an actor: led from here, Ray (2.60) would complain on
    the terminal of every actor with arguments (issue 53727)."""
    (stream,) = dataset.streaming_split(1)
    return stream.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1)


class _Encode:
    """The model at work; out come `values` float32[1, K, crops, …] of one video."""

    def __init__(self, config: Config, model: AdViSe, output: Output, num_crops: int, device: torch.device) -> None:
        self.config, self.output, self.device = config, output, device
        self.model = model.to(device).eval()
        self.crops = view_crops(config.augment, num_crops)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        values = np.zeros((1, 1, 1), dtype=np.float32)
        if not batch["failure"][0]:
            frames = torch.as_tensor(np.array(batch["frames"][0])).to(self.device)
            clips = torch.as_tensor(np.array(batch["clips"][0])).to(self.device)
            size_px = self.config.augment.crop_size_px
            views = [
                self._view(frames[:, top : top + size_px, left : left + size_px], clips) for top, left in self.crops
            ]
            values = torch.stack(views, dim=1).float().cpu().numpy()
        return {"row": batch["row"], "values": values[None], "failure": batch["failure"]}

    def _view(self, frames: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
        """uint8[F, H, W, 3] and int64[K, T] → [K, …]."""
        features = torch.cat([self.model.frame_features(chunk) for chunk in frames.split(FRAMES_AT_ONCE)])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.precision == "bf16"):
            return torch.cat(
                [
                    self._apply(self.model.sfu.arrange(features[some]))
                    for some in clips.split(self.config.train.global_batch_size)
                ]
            )

    def _apply(self, x: torch.Tensor) -> torch.Tensor:
        temporal = self.model.temporal
        if self.output == "tokens":
            return temporal.tmm(x)
        embedding = temporal.embed(x)
        return temporal.head(embedding) if self.output == "logits" else embedding


class _EncodeActor(_Encode):
    """In a process of its own, with the weights that the driver sends."""

    def __init__(
        self, config: Config, num_classes: int, weights: list[ray.ObjectRef], output: Output, num_crops: int
    ) -> None:
        use_gpu = bool(ray.get_gpu_ids())
        if not use_gpu:
            threads.use_cores(config.train.num_workers)
        model = empty_advise(config, num_classes)
        model.load_state_dict(ray.get(weights[0]))
        super().__init__(config, model, output, num_crops, torch.device("cuda" if use_gpu else "cpu"))

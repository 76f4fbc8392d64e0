"""Runs single trainings of an experiment in this process and measures their results."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from advise_ray.cache.store import FeatureStore
from advise_ray.config import Config, load, played_clip, videos_per_step
from advise_ray.evaluation.evaluate_run import Protocol, score
from advise_ray.evaluation.labels import labelled_split
from advise_ray.evaluation.metrics import Floats
from advise_ray.evaluation.outcome import Outcome
from advise_ray.evaluation.probes import probe
from advise_ray.evaluation.protocol import Settings
from advise_ray.evaluation.subject import find_subject
from advise_ray.experiment.bootstrap import Correct
from advise_ray.model.ifm import kept_ifm
from advise_ray.training.local import train_here
from advise_ray.training.run_dir import run_dir_of
from advise_ray.training.run_result import read_result
from advise_ray.video.manifest import Video, Videos, read_manifest
from advise_ray.video.pool import read_videos
from advise_ray.video.sampling import spread_clips
from advise_ray.video.splits import split_videos

IFM_ALONE = (
    "model.tmm.arch=none",
    "model.sfu.temporal_centering=false",
    "model.sfu.standardise=false",
    "model.head.looks_weight=0",
    "model.head.normalise=false",
    "model.head.pooling=mean",
)
Statistic = Literal["mean", "change"]
SETTINGS = Settings(num_crops=1)
TRAIN_ON_ALL = ("data.val_split=null", "data.val_fraction=0")
"""Overrides for runs that train on all training videos and validate on none."""
"""Ten clips per video with the centre crop of each, because a feature cache has only the centre crop."""


@dataclass(frozen=True)
class Trainings:
    """Configuration of an experiment's runs.

    Attributes:
        finetune: recipe of the fine-tuning. It runs for `finetune_steps` steps for any number of training videos.
        pretrain_steps: steps of the pretraining. None: the epochs of its recipe.
        features: feature cache of all videos. None: clips are decoded in every epoch.
    """

    finetune: str
    out: Path
    features: Path | None
    overrides: tuple[str, ...]
    finetune_steps: int
    pretrain_steps: int | None
    processes: int

    def pretrain(self, recipe: str, name: str, seed: int, manifests: Sequence[Path]) -> Path:
        """Pretrain on a pool, or reuse the finished run; returns the run directory."""
        config = self._config(recipe, name, seed, manifests, *TRAIN_ON_ALL)
        if self.pretrain_steps is not None:
            config = _for_steps(config, self.pretrain_steps)
        return self._run(config)

    def finetuned(self, name: str, seed: int, manifest: Path, lr: float, init_from: Path | None) -> Correct:
        """Fine-tune on all training videos of a set and return which of its test videos are classified correctly."""
        return self.test(self.finetune_run(name, seed, manifest, lr, init_from))

    def finetune_run(self, name: str, seed: int, manifest: Path, lr: float, init_from: Path | None) -> Path:
        """Fine-tune, or reuse the finished run; returns the run directory."""
        own = [*TRAIN_ON_ALL, f"optim.lr={lr}", f"model.init_from={_quoted(init_from)}"]
        config = self._config(self.finetune, name, seed, [manifest], *own)
        return self._run(_for_steps(config, self.finetune_steps))

    def test(self, run_dir: Path) -> Correct:
        """Which test videos of its set a fine-tuned model classifies correctly."""
        return judge(run_dir, "multiview")

    def probe(self, manifest: Path, statistic: Statistic) -> Correct:
        """See `linear_probe`."""
        config = self._config(self.finetune, "probe", 0, [manifest], "model.init_from=null")
        return linear_probe(config, manifest, statistic)

    def _run(self, config: Config) -> Path:
        run_dir = run_dir_of(config)
        if _is_done(run_dir) and load(run_dir / "config.yaml") == config:
            return run_dir
        ifm = kept_ifm(config.model.ifm, config.augment.crop_size_px)
        return Path(train_here(config, ifm=ifm, processes_on_node=self.processes)["run_dir"])

    def _config(self, recipe: str, name: str, seed: int, manifests: Sequence[Path], *own: str) -> Config:
        listed = json.dumps([str(path) for path in manifests] if len(manifests) > 1 else str(manifests[0]))
        where = [f"data.manifest={listed}", f"data.features={_quoted(self.features)}", "tracking.uri=null"]
        where += [f"storage.path={_quoted(self.out / 'runs')}", f"tracking.run_name={name}", f"seed={seed}"]
        often = ["train.val_every_epochs=1000000", "train.checkpoint_every_epochs=10", "train.keep_checkpoints=1"]
        return load(recipe, [*self.overrides, *where, *often, *own])


def judge(target: Path, protocol: Protocol, *overrides: str) -> Correct:
    """Which test videos a protocol classifies correctly. For `retrieval`, the nearest training video decides."""
    predictions = _score(target, protocol, overrides).predictions
    return {row["video_id"]: float(row["prediction"] == row["label"]) for row in predictions}


def rates(target: Path, manifest: Path) -> dict[str, float]:
    """PRP top-1 of a pretraining run on a set's videos that it was not trained on, honest and for each control."""
    return _score(target, "pretext", [f"data.manifest={_quoted(manifest)}"]).metrics


def _score(target: Path, protocol: Protocol, overrides: Sequence[str]) -> Outcome:
    config = load(target / "config.yaml", overrides)
    ifm = kept_ifm(config.model.ifm, config.augment.crop_size_px)
    settings = SETTINGS
    if protocol == "knn":  # use fewer neighbours if there are fewer training videos
        known = labelled_split(read_videos(config.data), config.data, None, []).train
        settings = replace(SETTINGS, k=min(SETTINGS.k, len(known)))
    _, outcomes, _ = score(find_subject(target, list(overrides), ifm), protocol, settings=settings)
    (outcome,) = outcomes.values()
    return outcome


def linear_probe(config: Config, manifest: Path, statistic: Statistic) -> Correct:
    """Classify by a linear probe on a clip's mean feature, or on its mean absolute change from frame to frame.

    Neither uses a temporal module, so the results show what the image model alone knows about a set.
    """
    table = read_manifest(manifest)
    every, store = Videos(table), FeatureStore(str(config.data.features))
    split = labelled_split(table, config.data, None, [])
    is_there = store.has(every)
    seen = [rows[is_there[rows]] for rows in (split.train, split.test)]
    train, test = (np.stack([_summed_up(config, store, every[row], statistic) for row in rows]) for rows in seen)
    labels, groups, names = split.labels[seen[0]], split.groups[seen[0]], split.names
    probed = probe(train, labels, groups, test, len(names), attentive=False, seed=0, device=torch.device("cpu"))
    right = dict(zip(seen[1], probed.scores.argmax(axis=1) == split.labels[seen[1]], strict=True))
    # As in all protocols, a video that cannot be decoded counts as wrong.
    return {every[row].video_id: float(right.get(row, False)) for row in split.test}


def _summed_up(config: Config, store: FeatureStore, video: Video, statistic: Statistic) -> Floats:
    """The statistic of each clip of a video, float32[K, C]."""
    clips = spread_clips(len(video.frames), played_clip(config), SETTINGS.num_clips, video.fps) + video.frames.start
    features = np.empty((*clips.shape, *store.identity.frame_shape), dtype=np.float16)
    store.read_into(list(features), video, store.snap(video, clips), [0] * len(clips))
    wide = features.astype(np.float32)
    return (wide if statistic == "mean" else np.abs(np.diff(wide, axis=1))).mean(axis=(1, 2, 3))


def _is_done(run_dir: Path) -> bool:
    result = read_result(run_dir)
    return result is not None and result["status"] == "FINISHED"


def _for_steps(config: Config, steps: int) -> Config:
    """Set the number of epochs so that the run has about `steps` steps."""
    num_videos = len(split_videos(read_videos(config.data), config.data).train)
    epochs = max(1, round(steps / math.ceil(num_videos / videos_per_step(config))))
    return config.model_copy(update={"train": config.train.model_copy(update={"epochs": epochs})})


def _quoted(path: Path | None) -> str:
    return json.dumps(None if path is None else str(path))

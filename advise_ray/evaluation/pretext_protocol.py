"""Measures playback rate prediction (PRP) on honest clips, and reports whether the model uses shortcuts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from advise_ray.config import ClipConfig, Config
from advise_ray.evaluation.encoded_videos import Encoder
from advise_ray.evaluation.metrics import confusion_matrix, softmax
from advise_ray.evaluation.outcome import Control, Details, Outcome
from advise_ray.evaluation.predictions import Prediction
from advise_ray.training.plan import rate_names
from advise_ray.video.manifest import Video
from advise_ray.video.sampling import Clip, fits_every_rate, keyed_rng, plan_val_clips

POLICIES = ("fit", "wrap", "hold")
GONE_WITHIN, OPEN_ABOVE = 0.05, 0.10
"""A finding is reported if a control without a cue is at most GONE_WITHIN below the honest top-1, or a control with a
shortcut is at least OPEN_ABOVE above it."""
NEAR_CHANCE = 0.05
CONTROLS = {
    "shuffled": "the model ignores the order of the frames; it uses how much changes between them",
    "reversed": "the model ignores the direction of time",
    "still": "the model needs no motion; a single frame is enough",
    "wrapped": "the jump where a clip starts over reveals the rate (data.clip.short_video=wrap)",
    "held": "the repeated last frame reveals the rate (data.clip.short_video=hold)",
}
"""Controls → their meaning. The first three change the honest clips: frames shuffled, reversed, or all replaced by the
middle frame. The last two are clips of short videos that start over (wrap) or repeat the last frame (hold)."""


@dataclass(frozen=True)
class _NamedClip:
    """A clip and its kind: `honest`, a control, or a policy for short videos."""

    name: str
    clip: Clip

    @property
    def wraps(self) -> bool:
        return bool((np.diff(self.clip.frame_indices) < 0).any())

    @property
    def repeats(self) -> bool:
        return bool((np.diff(self.clip.frame_indices) == 0).any())


@dataclass(frozen=True)
class _Play:
    """Plans the clips of a video: honest ones, those of the controls, and those of each policy for short videos."""

    config: Config

    def frames(self, video: Video) -> NDArray[np.int64]:
        """Frame numbers int64[K, T] of all clips."""
        return np.stack([each.clip.frame_indices for each in self.clips(video)])

    def clips(self, video: Video) -> Iterator[_NamedClip]:
        clip, seed = self.config.data.clip, self.config.seed
        if fits_every_rate(len(video.frames), clip, video.fps):
            shuffle = keyed_rng(seed, "shuffle", video.video_id)
            for honest in self._placed(video, clip, "val"):
                frames = honest.frame_indices
                yield _NamedClip("honest", honest)
                yield _NamedClip("shuffled", Clip(shuffle.permutation(frames), honest.rate_index))
                yield _NamedClip("reversed", Clip(frames[::-1], honest.rate_index))
                yield _NamedClip("still", Clip(np.full_like(frames, frames[len(frames) // 2]), honest.rate_index))
        for policy in POLICIES:
            for planned in self._placed(video, clip.model_copy(update={"short_video": policy}), policy):
                yield _NamedClip(policy, planned)

    def _placed(self, video: Video, clip: ClipConfig, key: str) -> Iterator[Clip]:
        rng = keyed_rng(self.config.seed, key, video.video_id)
        for planned in plan_val_clips(len(video.frames), clip, self.config.data.val_clips_per_rate, rng, video.fps):
            yield Clip(planned.frame_indices + video.frames.start, planned.rate_index)


def pretext(
    encoder: Encoder, rows: NDArray[np.int64], on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Outcome:
    """PRP top-1 on some videos of a manifest: on honest clips, under each policy for short videos, and on the controls.

    The honest clips are the validation clips of a run with this configuration.
    """
    play, of_video = _Play(encoder.config), dict[int, list[Prediction]]()
    for encoded in encoder.encode(rows, play.frames, "logits", on_progress=on_progress):
        video = encoder.videos[encoded.row]
        shares = None if encoded.values is None else softmax(encoded.values[:, 0])
        of_video[encoded.row] = [
            {
                "video_id": video.video_id,
                "clips": each.name,
                "label": each.clip.rate_index,
                "prediction": None if shares is None else int(shares[index].argmax()),
                "score": None if shares is None else float(shares[index].max()),
                "frame_indices": each.clip.frame_indices.tolist(),
                "wraps": each.wraps,
                "repeats": each.repeats,
                "failure": encoded.failure,
            }
            for index, each in enumerate(play.clips(video))
        ]
    predictions = [each for row in rows.tolist() for each in of_video[row]]
    return report(predictions, rate_names(encoder.config))


def report(predictions: list[Prediction], names: list[str]) -> Outcome:
    """Compute metrics from the predictions for clips. A clip that cannot be decoded counts as wrong."""
    by_name: dict[str, list[Prediction]] = {}
    for row in predictions:
        by_name.setdefault(row["clips"], []).append(row)
    chance = 1 / len(names)
    metrics: dict[str, float] = {"chance": chance}
    honest = by_name.get("honest", [])
    for policy in ("honest", *POLICIES):
        if policy in by_name:
            prefix = "" if policy == "honest" else f"{policy}/"
            metrics[f"{prefix}top1"] = _top1(by_name[policy])
            for index, name in enumerate(names):
                if of_rate := [row for row in by_name[policy] if row["label"] == index]:
                    metrics[f"{prefix}top1_rate_{name[1:]}"] = _top1(of_rate)
    controls, findings = dict[str, Control](), list[str]()
    if honest:
        controls = dict(_controls(by_name))
        metrics |= {f"control/{name}": control["top1"] for name, control in controls.items()}
        if metrics["top1"] <= chance + NEAR_CHANCE:
            findings = [f"top1 {metrics['top1']:.3f} is at chance ({chance:.3f}); the controls cannot be interpreted"]
        else:
            findings = list(_findings(controls))
    else:
        findings = ["no video is long enough for every rate, so there is no honest metric"]
    decoded = [row for row in honest if row["prediction"] is not None]
    confusion = confusion_matrix(_column(decoded, "label"), _column(decoded, "prediction"), len(names))
    details: Details = {
        "controls": controls,
        "clips": {name: len(rows) for name, rows in by_name.items()},
        "findings": findings,
    }
    return Outcome(metrics, predictions, names, confusion if honest else None, details)


def _controls(by_name: Mapping[str, list[Prediction]]) -> Iterator[tuple[str, Control]]:
    """The controls that have clips. Each rate has the same weight."""
    groups = {name: by_name[name] for name in ("shuffled", "reversed", "still")}
    groups["wrapped"] = [row for row in by_name.get("wrap", []) if row["wraps"]]
    groups["held"] = [row for row in by_name.get("hold", []) if row["repeats"]]
    for name, rows in groups.items():
        rates = {row["label"] for row in rows}
        if rates:
            honest_top1 = _balanced_top1(by_name["honest"], rates)
            yield name, Control(top1=_balanced_top1(rows, rates), honest_top1=honest_top1)


def _findings(controls: Mapping[str, Control]) -> Iterator[str]:
    for name, control in controls.items():
        top1, honest = control["top1"], control["honest_top1"]
        has_shortcut = name in ("wrapped", "held")
        if top1 >= honest + OPEN_ABOVE if has_shortcut else top1 >= honest - GONE_WITHIN:
            yield f"{name}: top1 is {top1:.3f}, and {honest:.3f} on honest clips: {CONTROLS[name]}"


def _balanced_top1(rows: list[Prediction], rates: set[int]) -> float:
    """Mean top-1 over the rates. Each rate has the same weight, because wrapped clips are mostly fast ones."""
    return float(np.mean([_top1([row for row in rows if row["label"] == rate]) for rate in rates]))


def _top1(rows: list[Prediction]) -> float:
    return float(np.mean([row["prediction"] == row["label"] for row in rows]))


def _column(rows: list[Prediction], name: Literal["label", "prediction"]) -> NDArray[np.int64]:
    return np.asarray([row[name] for row in rows], dtype=np.int64)

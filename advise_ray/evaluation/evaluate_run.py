"""`evaluate`: runs a protocol on a checkpoint and writes metrics, predictions and figures, also to MLflow."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from advise_ray.backend import nodes
from advise_ray.config import INFERENCE, Config, load
from advise_ray.errors import UsageError
from advise_ray.evaluation.encoded_videos import Encoder
from advise_ray.evaluation.labels import LabelledSplit, labelled_split, num_official_splits, refuse_seen
from advise_ray.evaluation.linear_protocol import linear
from advise_ray.evaluation.multiview_protocol import multiview
from advise_ray.evaluation.neighbour_protocols import knn, retrieval
from advise_ray.evaluation.outcome import Outcome
from advise_ray.evaluation.pretext_protocol import pretext
from advise_ray.evaluation.protocol import Settings
from advise_ray.evaluation.subject import Subject, find_subject, refuse_unfit
from advise_ray.evaluation.write_report import EvaluationResult, VideoCounts, write_report
from advise_ray.storage.atomic import refuse_unwritable
from advise_ray.training import checkpoint
from advise_ray.video.manifest import Videos
from advise_ray.video.pool import hash_videos, read_videos
from advise_ray.video.splits import held_out_split, in_split, split_videos

log = logging.getLogger("advise_ray")

Protocol = Literal["pretext", "multiview", "linear", "knn", "retrieval"]
OnProgress = Callable[[int, int], None]


def evaluate(
    target: Path | str,
    protocol: Protocol,
    *,
    manifest: Path | None = None,
    split: int | Literal["all"] | None = None,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    overrides: Sequence[str] = (),
    on_progress: OnProgress = lambda done, total: None,
) -> EvaluationResult:
    """Evaluate a run (its best checkpoint), a checkpoint, or a recipe with a randomly initialised TMM.

    Args:
        manifest: manifest to use instead of the run's manifest.
        split: number of an official split, from 1, or all of them; None for the manifest's `split` column.
        overrides: `key=value` changes of the run's configuration; `model.tmm.arch=none` removes the TMM.

    Returns:
        The content of `result.json`.

    Raises:
        UsageError, ConfigError: raised before any video is read.
        EvaluationError: too many videos cannot be decoded.
    """
    started_s = time.monotonic()
    manifest_key = [f"data.manifest={json.dumps(str(manifest))}"] if manifest else []
    subject = find_subject(target, [*INFERENCE, *overrides, *manifest_key])
    name = _name(subject, protocol, settings, split, manifest)
    refuse_unwritable(subject.run_dir / "evaluation" / name / "result.json", str(target))
    encoder, outcomes, counts = score(subject, protocol, split=split, settings=settings, on_progress=on_progress)
    return write_report(subject, encoder, protocol, name, outcomes, counts, started_s)


def score(
    subject: Subject,
    protocol: Protocol,
    *,
    split: int | Literal["all"] | None = None,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    on_progress: OnProgress = lambda done, total: None,
) -> tuple[Encoder, dict[str, Outcome], VideoCounts]:
    """Run a protocol and return its outcome for each split and the numbers of videos. Writes no files.

    Raises:
        UsageError, ConfigError, EvaluationError: as `evaluate`.
    """
    config = subject.config
    refuse_unfit(subject, protocol)
    table = read_videos(config.data)
    encoder = Encoder(
        config,
        subject.model,
        subject.num_classes,
        Videos(table),
        nodes.plan(config).use_gpu,
    )
    if protocol == "pretext":
        if split is not None:
            raise UsageError("--split: the pretext protocol has no official splits; leave --split out")
        rows, which = _pretext_rows(table, config, is_trained=subject.path is not None)
        known: VideoCounts = {"videos": len(rows), "manifest_sha256": hash_videos(table)}
        return encoder, {which: pretext(encoder, rows, on_progress)}, known
    chosen = _splits(subject, protocol, table, split)
    protocols = {
        "multiview": multiview,
        "linear": linear,
        "knn": knn,
        "retrieval": retrieval,
    }
    found = protocols[protocol](encoder, list(chosen.values()), settings, on_progress)
    counts: VideoCounts = {
        "videos": sum(len(each.test) for each in chosen.values()),
        "manifest_sha256": hash_videos(table),
    }
    if protocol != "multiview":
        counts["train_videos"] = sum(len(each.train) for each in chosen.values())
    return encoder, dict(zip(chosen, found, strict=True)), counts


def _pretext_rows(table: pa.Table, config: Config, *, is_trained: bool = True) -> tuple[Any, str]:
    """Rows that the model was not trained on, and the name of their split."""
    name = str(held_out_split(table, config.data, config.data.test_split))
    test = np.flatnonzero(in_split(table, name))
    if is_trained and (not len(test) or name == held_out_split(table, config.data, config.data.val_split)):
        log.warning("note: no split is for testing alone: these are the videos on which runs validate (data.val_split)")
    if len(test):
        return test, name
    held_out = split_videos(table, config.data).val
    if not len(held_out):
        raise UsageError(
            f"data.test_split: no video has split {config.data.test_split!r}, and no video is held out for validation "
            "(data.val_split, data.val_fraction); index the videos again with --test-fraction 0.2"
        )
    return held_out, "validation"


def _splits(
    subject: Subject, protocol: Protocol, table: pa.Table, split: int | Literal["all"] | None
) -> dict[str, LabelledSplit]:
    numbers: list[int | None] = [split if split != "all" else None]
    if split == "all":
        numbers = list(range(1, num_official_splits(table) + 1)) or [1]  # split 1 is refused later
    known = subject.classes if protocol == "multiview" else []
    data = subject.config.data
    chosen = {
        str(number or held_out_split(table, data, data.test_split)): labelled_split(table, data, number, known)
        for number in numbers
    }
    if subject.config.task == "action" and subject.path is not None:
        trained_on = load(subject.path / "config.yaml").data
        is_same = checkpoint.read_state(subject.path).manifest_sha256 == hash_videos(table)
        tests = np.unique(np.concatenate([each.test for each in chosen.values()]))
        refuse_seen(trained_on, table, tests, is_same_manifest=is_same)
    return chosen


def _name(
    subject: Subject, protocol: Protocol, settings: Settings, split: int | str | None, manifest: Path | None
) -> str:
    """Name of the result folder. It differs for each kind of evaluation of the same run."""
    parts = [protocol, *(["attentive"] if settings.attentive else []), *(["ifm_alone"] if subject.is_ifm_alone else [])]
    parts += [f"split_{split}"] if split is not None else []
    return "-".join([*parts, *([manifest.stem] if manifest else [])])

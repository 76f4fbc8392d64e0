"""`evaluate`: from a checkpoint and a protocol to metrics, predictions, figures and MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from advise_ray import recipes, runtime
from advise_ray.config import Config, load, played_clip, to_yaml
from advise_ray.errors import ConfigError, UsageError
from advise_ray.evaluation import actions, figures
from advise_ray.evaluation.actions import Settings
from advise_ray.evaluation.encode import Encoder
from advise_ray.evaluation.labels import LabelledSplit, labelled_split, num_official_splits, refuse_seen
from advise_ray.evaluation.outcome import Outcome
from advise_ray.evaluation.pretext import pretext
from advise_ray.model.advise import AdViSe, build_advise
from advise_ray.tracking import RunTracker
from advise_ray.training import checkpoint
from advise_ray.training.plan import share_cpus
from advise_ray.video.manifest import read_manifest, split_videos, videos
from advise_ray.video.sampling import spread_clips

Protocol = Literal["pretext", "multiview", "linear", "knn", "retrieval"]
OnProgress = Callable[[int, int], None]
Row = dict[str, Any]
MISTAKES_SHOWN = 10


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        path: its checkpoint; None for a recipe, whose TMM stays as it was drawn.
        run_dir: what it leaves goes under this.
        is_ifm_alone: the checkpoint's TMM was left out by `model.tmm.arch=none`.
        classes: what its head tells apart; empty where nobody has said.
    """

    config: Config
    model: AdViSe
    num_classes: int
    path: Path | None
    run_dir: Path
    is_ifm_alone: bool
    classes: list[str]


def evaluate(
    target: Path | str,
    protocol: Protocol,
    *,
    manifest: Path | None = None,
    split: int | Literal["all"] | None = None,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    overrides: Sequence[str] = (),
    on_progress: OnProgress = lambda done, total: None,
) -> Row:
    """Evaluate a run (its best checkpoint), a checkpoint, or a recipe with a TMM at random.

    Args:
        manifest: in place of the run's.
        split: an official split, from 1, or all of them; None for the manifest's `split` column.
        overrides: `key=value`, of the run's configuration; `model.tmm.arch=none` leaves its TMM out.

    Returns:
        What `result.json` holds, see the README.

    Raises:
        UsageError, ConfigError: before any video is read.
        EvaluationError: too many videos cannot be decoded.
    """
    started_s = time.monotonic()
    subject = _subject(target, [*overrides, *([f"data.manifest={json.dumps(str(manifest))}"] if manifest else [])])
    config = subject.config
    _refuse_unfit(subject, protocol)
    if config.data.manifest is None:
        raise ConfigError(["data.manifest: required; name one by --manifest"])
    table = read_manifest(Path(config.data.manifest))
    runtime.connect()
    encoder = Encoder(
        config,
        subject.model,
        subject.num_classes,
        videos(table),
        share_cpus(config, runtime.available_cpus(), runtime.available_gpus()),
    )
    if protocol == "pretext":
        if split is not None:
            raise UsageError("--split: playback rates have no official splits")
        rows, which = _pretext_rows(table, config)
        outcomes, counts = {which: pretext(encoder, rows, on_progress)}, {"videos": len(rows)}
    else:
        chosen = _splits(subject, protocol, table, split)
        protocols = {
            "multiview": actions.multiview,
            "linear": actions.linear,
            "knn": actions.knn,
            "retrieval": actions.retrieval,
        }
        found = protocols[protocol](encoder, list(chosen.values()), settings, on_progress)
        outcomes = dict(zip(chosen, found, strict=True))
        counts = {"videos": sum(len(each.test) for each in chosen.values())}
        if protocol != "multiview":
            counts["train_videos"] = sum(len(each.train) for each in chosen.values())
    name = _name(subject, protocol, settings, split, manifest)
    return _leave(subject, encoder, protocol, name, outcomes, counts, started_s)


def _subject(target: Path | str, overrides: list[str]) -> Subject:
    if not Path(target).is_dir():
        return _untrained(str(target), overrides)
    path = checkpoint.find(Path(target).absolute(), "CHECKPOINT_OR_RUN")
    theirs, config = load(path / "config.yaml"), load(path / "config.yaml", overrides)
    is_ifm_alone = config.model.tmm.arch == "none" != theirs.model.tmm.arch
    run_dir = path.parents[1] if path.parent.name == "checkpoints" else path
    num_classes = checkpoint.num_classes(path)
    model = build_advise(config, num_classes)
    if is_ifm_alone:
        return Subject(config, model, num_classes, None, run_dir, True, [])
    checkpoint.check_features(path, config, model.ifm.hash_weights(), str(path))
    state = checkpoint.load(path, model.temporal)
    return Subject(config, model, num_classes, path, run_dir, False, state.classes)


def _untrained(target: str, overrides: list[str]) -> Subject:
    try:
        recipe = recipes.find(target)
    except UsageError:
        raise UsageError(f"{target}: neither a run, nor a checkpoint, nor a recipe (file or shipped name)") from None
    config = load(recipe, ["model.init_from=null", *overrides])
    name = config.tracking.run_name or f"untrained-{datetime.now():%Y%m%d-%H%M%S}"
    run_dir = Path(config.storage.path) / name
    if (run_dir / "checkpoints").exists():
        raise UsageError(f"{run_dir} is a trained run; evaluate that, or choose another tracking.run_name")
    num_classes = len(config.data.clip.rates)  # of a head that nothing is learnt with, and only PRP asks
    model = build_advise(config, num_classes)
    return Subject(config, model, num_classes, None, run_dir, config.model.tmm.arch == "none", [])


def _refuse_unfit(subject: Subject, protocol: Protocol) -> None:
    if protocol == "multiview" and (subject.config.task != "action" or subject.path is None):
        raise UsageError(
            "--protocol multiview needs a model that has learnt actions (task: action); fine-tune first, or use "
            "linear, knn or retrieval"
        )
    if protocol == "pretext" and (subject.config.task != "prp" or subject.is_ifm_alone):
        raise UsageError("--protocol pretext needs a model that has learnt playback rates (task: prp)")


def _pretext_rows(table: pa.Table, config: Config) -> tuple[Any, str]:
    """Rows that the model has not trained on, and which they are."""
    split = np.asarray(table.column("split").to_pylist(), dtype=object)
    test = np.flatnonzero(split == config.data.test_split)
    if len(test):
        return test, config.data.test_split
    held_out = split_videos(table, config.data).val
    if not len(held_out):
        raise UsageError(
            f"data.test_split: no video has split {config.data.test_split!r}, and none is held out for validation "
            "(data.val_split, data.val_fraction)"
        )
    return held_out, "validation"


def _splits(
    subject: Subject, protocol: Protocol, table: pa.Table, split: int | Literal["all"] | None
) -> dict[str, LabelledSplit]:
    numbers: list[int | None] = [split if split != "all" else None]
    if split == "all":
        numbers = list(range(1, num_official_splits(table) + 1)) or [1]  # which is then refused
    known = subject.classes if protocol == "multiview" else []
    chosen = {
        str(number or subject.config.data.test_split): labelled_split(table, subject.config.data, number, known)
        for number in numbers
    }
    if subject.config.task == "action" and subject.path is not None:
        trained_on = load(subject.path / "config.yaml").data
        for each in chosen.values():
            refuse_seen(Path(str(trained_on.manifest)), trained_on.train_split, table, each.test)
    return chosen


def _name(
    subject: Subject, protocol: Protocol, settings: Settings, split: int | str | None, manifest: Path | None
) -> str:
    """Of the folder: what tells it from other evaluations of the same run."""
    parts = [protocol, *(["attentive"] if settings.attentive else []), *(["ifm_alone"] if subject.is_ifm_alone else [])]
    parts += [f"split_{split}"] if split is not None else []
    return "-".join([*parts, *([manifest.stem] if manifest else [])])


def _leave(
    subject: Subject,
    encoder: Encoder,
    protocol: Protocol,
    name: str,
    outcomes: dict[str, Outcome],
    counts: Row,
    started_s: float,
) -> Row:
    """Write predictions, figures and result under the run's directory, and log them."""
    folder = subject.run_dir / "evaluation" / name
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink()
    predictions = [{"split": which, **row} for which, outcome in outcomes.items() for row in outcome.predictions]
    pq.write_table(pa.Table.from_pylist(predictions), folder / "predictions.parquet")
    for which, outcome in outcomes.items():
        _draw(folder, f"-{which}" if len(outcomes) > 1 else "", outcome, encoder, protocol)
    metrics, deviations = _summed_up([outcome.metrics for outcome in outcomes.values()])
    details: Row = {which: {"metrics": outcome.metrics, **outcome.details} for which, outcome in outcomes.items()}
    result: Row = {
        "protocol": protocol,
        "checkpoint": str(subject.path) if subject.path else None,
        "ifm_alone": subject.is_ifm_alone,
        "manifest": subject.config.data.manifest,
        "metrics": metrics,
        "deviations": deviations,
        "splits": details,
        **counts,
        "failed_videos": len({row["video_id"] for row in predictions if row["failure"] is not None}),
        "predictions": str(folder / "predictions.parquet"),
        "figures": sorted(str(path) for path in folder.glob("*.png")),
        "evaluation_dir": str(folder),
        "wall_s": round(time.monotonic() - started_s, 1),
    }
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return result | _log(subject, encoder, name, metrics, folder)


def _log(subject: Subject, encoder: Encoder, name: str, metrics: dict[str, float], folder: Path) -> Row:
    tracker = RunTracker(subject.config, subject.run_dir)
    is_new = tracker.run_id is None
    if is_new:  # a recipe, or a run that came from elsewhere
        if not (subject.run_dir / "config.yaml").exists():
            (subject.run_dir / "config.yaml").write_text(to_yaml(subject.config))
        tracker.start(device="cuda" if encoder.shares.use_gpu else "cpu")
    values = {f"eval/{name}/{key}": value for key, value in metrics.items()}
    complete = tracker.add(values, sorted(folder.iterdir()), f"evaluation/{name}")
    if is_new:
        complete = tracker.finish("FINISHED") and complete
    return {"mlflow_run_id": tracker.run_id, "tracking_complete": complete}


def _summed_up(metrics: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Means over the splits, and their standard deviations where there are several."""
    shared = [name for name in metrics[0] if all(name in each for each in metrics)]
    columns = {name: [each[name] for each in metrics] for name in shared}
    means = {name: float(np.mean(values)) for name, values in columns.items()}
    if len(metrics) == 1:
        return means, {}
    return means, {name: float(np.std(values, ddof=1)) for name, values in columns.items()}


def _draw(folder: Path, suffix: str, outcome: Outcome, encoder: Encoder, protocol: Protocol) -> None:
    if outcome.confusion is not None:
        top1 = f"top1 {outcome.metrics['top1']:.3f}"
        figures.confusion(folder / f"confusion{suffix}.png", outcome.confusion, outcome.names, top1)
        figures.class_bars(folder / f"classes{suffix}.png", outcome.confusion, outcome.names, top1)
    mistakes = list(_mistakes(outcome, encoder, protocol))
    figures.contact_sheet(folder / f"mistakes{suffix}.png", mistakes, encoder.config, "The surest mistakes")


def _mistakes(outcome: Outcome, encoder: Encoder, protocol: Protocol) -> Iterator[figures.Mistake]:
    """The ones that the model was surest of; of clips the honest ones, of videos the clip in their middle."""
    rows = {video.video_id: video for video in encoder.videos}
    wrong = [row for row in outcome.predictions if row["prediction"] not in (None, row["label"])]
    wrong = [row for row in wrong if row.get("clips", "honest") == "honest"]
    for row in sorted(wrong, key=lambda row: -row.get("score", 0))[:MISTAKES_SHOWN]:
        video = rows[row["video_id"]]
        clip = played_clip(encoder.config)
        frames = np.asarray(row["frame_indices"]) if protocol == "pretext" else None
        if frames is None:
            frames = spread_clips(len(video.frames), clip, 1, video.fps)[0] + video.frames.start
        taken_for, is_really = outcome.names[row["prediction"]], outcome.names[row["label"]]
        sure = f", {row['score']:.2f}" if "score" in row else ""
        yield figures.Mistake(video, frames, f"{is_really}, taken for {taken_for}{sure}: {video.video_id}")

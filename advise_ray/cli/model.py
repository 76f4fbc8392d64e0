"""The commands `advise-ray embed`, `predict` and `export`: they use a trained model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advise_ray.cli.cluster_option import cluster_option
from advise_ray.cli.group import main
from advise_ray.cli.shared import UserPath, json_option, show
from advise_ray.errors import AdviseRayError

if TYPE_CHECKING:
    from advise_ray.deploy.predict_videos import PredictResult


@main.command()
@click.argument("target", metavar="CHECKPOINT_OR_RUN")
@click.option(
    "--videos", required=True, metavar="DIR_OR_URL", help="A folder of videos, a video, or a manifest (Parquet)."
)
@click.option("--out", type=UserPath(), required=True, help="File to write or update (Parquet).")
@click.option(
    "--top-k", type=click.IntRange(1), default=5, show_default=True, help="Number of classes to write per clip."
)
@click.option(
    "--step-s",
    type=click.FloatRange(0, min_open=True),
    help="Seconds from the start of one clip to the next; default: clips do not overlap.",
)
@click.option("--html", "page", type=UserPath(), metavar="FILE", help="Also write a page with a map of the clips.")
@json_option
@cluster_option
def embed(
    target: str, videos: str, out: Path, top_k: int, step_s: float | None, page: Path | None, as_json: bool
) -> None:
    """Write the embedding and the classes of each clip to one Parquet file.

    If the file exists, only new and changed videos are encoded. Run the same command again to continue an interrupted
    job.
    """
    from advise_ray.cli import progress
    from advise_ray.deploy import atlas
    from advise_ray.deploy.clip_index import read_index
    from advise_ray.deploy.embed import embed as run
    from advise_ray.storage import remote

    if page is not None:
        atlas.refuse_impossible(page, out)
    with progress.counting("encoding clips") as on_progress:
        result = run(
            target,
            remote.local_or_url(videos),
            out.absolute(),
            top_k=top_k,
            step_s=step_s,
            on_progress=on_progress,
        )
    written: dict[str, Any] = {}
    if page is not None and not result["clips"]:
        progress.tell("no page: the file has no clips")
    elif page is not None:
        with progress.counting("taking pictures") as on_progress:
            index = read_index(out.absolute())
            given = remote.local_or_url(videos)
            written.update(atlas.write_page(index, page.absolute(), videos=given, on_progress=on_progress))
    show({**result, **written}, as_json)


@main.command()
@click.argument("target", metavar="CHECKPOINT_OR_RUN")
@click.argument("clips", nargs=-1, required=True, metavar="CLIP…|DIR")
@json_option
def predict(target: str, clips: tuple[str, ...], as_json: bool) -> None:
    """Print the three most probable classes of videos, or of all videos in a folder. Exit with 1 if a video fails.

    A pretrained model predicts the playback rate. The scores are those of `evaluate`: probabilities, averaged over ten
    clips of each video.
    """
    from advise_ray.cli import progress
    from advise_ray.deploy.predict_videos import predict as run

    with progress.counting("classifying videos") as on_progress:
        result = run(target, clips, on_progress=on_progress)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(_predictions_table(result))
        _explain(result)
    if result["failed_videos"]:
        sys.exit(AdviseRayError.exit_code)


def _predictions_table(result: PredictResult) -> str:
    """Format predictions as a line for each video: its path, its classes and scores, and what to know about it."""
    rows = result["videos"]
    cells = [[f"{each['class']} {each['score']:.2f}" for each in row["predictions"]] for row in rows]
    path_width = max(len(row["path"]) for row in rows)
    width = max((len(cell) for row in cells for cell in row), default=0)
    lines = []
    for row, scores in zip(rows, cells, strict=True):
        shown = [f"{row['path']:<{path_width}}", *(f"{cell:<{width}}" for cell in scores)]
        shown += [f"cannot be read: {row['error']}"] if row["error"] else []
        shown += [f"({row['note']})"] if row["note"] else []
        lines.append("  ".join(shown).rstrip())
    return "\n".join(lines)


def _explain(result: PredictResult) -> None:
    """Tell on stderr what a rate means, and how often the model is right."""
    from advise_ray.cli import progress

    if result["task"] == "prp":
        progress.tell("×N: the motion looks N times as fast as it usually is in the training videos")
    if result["val_top1"] is not None:
        progress.tell(f"val/top1 of this model: {result['val_top1']:.3f} (chance {result['chance']:.3f})")


@main.command()
@click.argument("target", metavar="CHECKPOINT_OR_RUN")
@click.option("--out", type=UserPath(), required=True, help="Folder to write.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["safetensors", "onnx"]),
    default="safetensors",
    show_default=True,
    help="File format.",
)
@json_option
def export(target: str, out: Path, kind: Any, as_json: bool) -> None:
    """Write a trained model for other programs, and check that the written model gives the same outputs."""
    from advise_ray.deploy.export import export as run

    show(run(target, out.absolute(), kind), as_json)

"""The commands `advise-ray embed` and `advise-ray export`: they use a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advise_ray.cli.cluster_option import cluster_option
from advise_ray.cli.group import main
from advise_ray.cli.shared import UserPath, json_option, show


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
@json_option
@cluster_option
def embed(target: str, videos: str, out: Path, top_k: int, step_s: float | None, as_json: bool) -> None:
    """Write the embedding and the classes of each clip to one Parquet file.

    If the file exists, only new and changed videos are encoded. Run the same command again to continue an interrupted
    job.
    """
    from advise_ray.cli import progress
    from advise_ray.deploy.embed import embed as run
    from advise_ray.storage import remote

    with progress.counting("encoding clips") as on_progress:
        result = run(
            target,
            remote.local_or_url(videos),
            out.absolute(),
            top_k=top_k,
            step_s=step_s,
            on_progress=on_progress,
        )
    show(result, as_json)


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

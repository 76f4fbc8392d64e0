"""`advise-ray embed` and `advise-ray export`: what a trained model is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advise_ray.cli.cluster_option import cluster_option
from advise_ray.cli.group import main
from advise_ray.cli.shared import UserPath, json_option, show


@main.command()
@click.argument("target", metavar="CHECKPOINT_OR_RUN")
@click.option("--videos", required=True, metavar="DIR_OR_URL", help="A folder of videos, or a manifest (Parquet).")
@click.option("--out", type=UserPath(), required=True, help="File to write (Parquet).")
@click.option("--top-k", type=click.IntRange(1), default=5, show_default=True, help="Classes of each clip.")
@click.option(
    "--step-s", type=click.FloatRange(0, min_open=True), help="From clip to clip; default: one after another."
)
@json_option
@cluster_option
def embed(target: str, videos: str, out: Path, top_k: int, step_s: float | None, as_json: bool) -> None:
    """Encode videos clip by clip: embeddings and classes, into one Parquet file. An interrupted job goes on."""
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
@click.option("--out", type=UserPath(), required=True, help="Directory to write.")
@click.option("--format", "kind", type=click.Choice(["safetensors", "onnx"]), default="safetensors", show_default=True)
@json_option
def export(target: str, out: Path, kind: Any, as_json: bool) -> None:
    """Write a trained model for other programs, and compare what they will compute with the model itself."""
    from advise_ray.deploy.export import export as run

    show(run(target, out.absolute(), kind), as_json)

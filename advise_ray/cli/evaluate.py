"""The command `advise-ray evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from advise_ray.cli.cluster_option import cluster_option
from advise_ray.cli.group import main
from advise_ray.cli.shared import UserPath, json_option, set_option, show_page


class _Split(click.ParamType):
    """A positive integer, or `all`."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "all" else click.IntRange(1).convert(value, param, ctx)


@main.command()
@click.argument("target", metavar="CHECKPOINT_OR_RUN")
@click.option(
    "--protocol",
    type=click.Choice(["pretext", "multiview", "linear", "knn", "retrieval"]),
    required=True,
    help="pretext: accuracy of playback-rate prediction, and which cues it uses; multiview: accuracy on the classes "
    "of the fine-tuning; linear, knn, retrieval: quality of the frozen embeddings.",
)
@click.option("--manifest", type=UserPath(), help="Use these videos instead of the run's.")
@click.option("--split", type=_Split(), help="Number of an official split, or all of them (prints mean and deviation).")
@click.option("--clips", type=click.IntRange(1), default=10, show_default=True, help="Clips per video, evenly spaced.")
@click.option("--crops", type=click.IntRange(1), help="Crops per clip; default: 3 for multiview, else 1.")
@click.option("--k", type=click.IntRange(1), default=20, show_default=True, help="knn: number of neighbours.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, min_open=True),
    default=0.07,
    show_default=True,
    help="knn: temperature of the votes.",
)
@click.option("--attentive", is_flag=True, help="linear: use a probe with attention over time and space.")
@set_option
@json_option
@cluster_option
def evaluate(
    target: str,
    protocol: str,
    manifest: Path | None,
    split: Any,
    clips: int,
    crops: int | None,
    k: int,
    temperature: float,
    attentive: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Evaluate a run (its best checkpoint), a checkpoint, or the untrained model of a recipe.

    To evaluate only the image model: --set model.tmm.arch=none --set model.sfu.temporal_centering=false.
    """
    from advise_ray.cli import progress
    from advise_ray.evaluation import evaluate_run
    from advise_ray.evaluation.protocol import Settings

    if attentive and protocol != "linear":
        raise click.UsageError("--attentive needs --protocol linear")
    settings = Settings(clips, crops, k, temperature, attentive)
    with progress.counting("encoding videos") as on_progress:
        result = evaluate_run.evaluate(
            target,
            protocol,  # type: ignore[arg-type]
            manifest=manifest and manifest.absolute(),
            split=split,
            settings=settings,
            overrides=overrides,
            on_progress=on_progress,
        )
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(progress.evaluation_table(result))
        show_page(result)

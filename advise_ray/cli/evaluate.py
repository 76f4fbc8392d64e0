"""`advise-ray evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from advise_ray.cli.cluster_option import cluster_option
from advise_ray.cli.group import main
from advise_ray.cli.shared import UserPath, json_option, set_option


class _Split(click.ParamType):
    """A number from 1, or `all`."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "all" else click.IntRange(1).convert(value, param, ctx)


@main.command()
@click.argument("target", metavar="CHECKPOINT_OR_RUN")
@click.option(
    "--protocol",
    type=click.Choice(["pretext", "multiview", "linear", "knn", "retrieval"]),
    required=True,
    help="pretext: playback rates, and what that rests on; multiview: the classes that it was fine-tuned on; "
    "linear, knn, retrieval: what its features are worth.",
)
@click.option("--manifest", type=UserPath(), help="Other videos than the run's.")
@click.option("--split", type=_Split(), help="Official split (ucf101, hmdb51), or all of them: mean and deviation.")
@click.option("--clips", type=click.IntRange(1), default=10, show_default=True, help="Spread over each video.")
@click.option("--crops", type=click.IntRange(1), help="Of each clip, side by side; default: 3 for multiview, else 1.")
@click.option("--k", type=click.IntRange(1), default=20, show_default=True, help="knn: neighbours that vote.")
@click.option(
    "--temperature", type=click.FloatRange(0, min_open=True), default=0.07, show_default=True, help="knn: of the votes."
)
@click.option("--attentive", is_flag=True, help="linear: a probe with attention over time and space.")
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
    """Evaluate a run (its best checkpoint), one of its checkpoints, or a recipe as it is before training.

    With --set model.tmm.arch=none --set model.sfu.temporal_centering=false: the image model alone.
    """
    from advise_ray.cli import progress
    from advise_ray.evaluation import protocols
    from advise_ray.evaluation.actions import Settings

    if attentive and protocol != "linear":
        raise click.UsageError("--attentive is for --protocol linear")
    settings = Settings(clips, crops, k, temperature, attentive)
    with progress.counting("encoding videos") as on_progress:
        result = protocols.evaluate(
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

"""Predicts the time of live and cached training on large data sets and many GPUs, from assumed throughput rates.

    python jobs/predict_scale.py --rates jobs/rates/one_h100.yaml

The predictions are for the paper's model: 8 frames per clip, 4 clips per video, CLIP ViT-B/16 features of 7×7 cells and
768 channels in float16. The rates are those of one GPU. For N GPUs, the numbers of GPUs and cores and the disk speed
are multiplied by N.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from advise_ray.cost.predict import Rates, Workload, predict, read_rates

FRAME_BYTES = 7 * 7 * 768 * 2
SMALL_FRAME_BYTES = 4 * 4 * 768 * 2
GPUS = (1, 8, 64)
SETS = {
    # training videos, frames per video, frame step of the cache, bytes per cached frame, epochs
    "UCF101, all frames, 7×7": (9_537, 187, 1, FRAME_BYTES, 800),
    "Kinetics-400, every 2nd frame, 7×7": (240_000, 300, 2, FRAME_BYTES, 100),
    "10 million videos of 10 s, every 4th frame, 4×4": (10_000_000, 300, 4, SMALL_FRAME_BYTES, 30),
}


@click.command()
@click.option(
    "--rates",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="YAML file with the throughput rates of one GPU.",
)
def main(rates: Path) -> None:
    """Print the table of predictions in RESULTS.md."""
    one = read_rates(rates)
    click.echo("| data set | GPUs | live, h | cached, h | to make the cache, h | cache, TB | pays from epoch |")
    click.echo("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (videos, frames, step, frame_bytes, epochs) in SETS.items():
        work = Workload(4 * videos, 0, epochs, 0, 8, videos * -(-frames // step), 1, frame_bytes)
        for gpus in GPUS:
            cost = predict(work, of_gpus(one, gpus))
            click.echo(
                f"| {name}, {epochs} epochs | {gpus} | {cost['live_hours']:,.3g} | {cost['cached_hours']:,.3g} "
                f"| {cost['cache_hours']:,.3g} | {cost['cache_bytes'] / 1e12:,.3g} | {cost['cache_pays_from_epoch']} |"
            )


def of_gpus(one: Rates, gpus: int) -> Rates:
    """The rates of `gpus` GPUs, each with its own share of cores and disk speed."""
    return replace(
        one, workers=one.workers * gpus, cores=one.cores * gpus, read_bytes_per_s=one.read_bytes_per_s * gpus
    )


if __name__ == "__main__":
    main()

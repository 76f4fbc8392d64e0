"""The command `advise-ray bench`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from advise_ray.cli.group import main
from advise_ray.cli.shared import json_option, set_option
from advise_ray.errors import UsageError

if TYPE_CHECKING:
    from advise_ray.bench.step import StepRow


device_option = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="Where to measure. Without it: on the GPU, if there is one."
)


def _device(wanted: str | None) -> str:
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device: torch finds no GPU here; use --device cpu")
    return wanted or ("cuda" if torch.cuda.is_available() else "cpu")


@main.group()
def bench() -> None:
    """Measure speed and memory on this machine, and compare with other methods."""


@bench.command()
@device_option
@json_option
def step(device: str | None, as_json: bool) -> None:
    """Measure time and memory of a training step, and compare AdViSe with an R3D-50 that is trained end to end."""
    from advise_ray.bench import step as bench_step

    def show(row: StepRow) -> None:
        model = f"{row['kind']} {row['ifm'] or ''} {row['features'] if row['ifm'] else ''}"
        size = f"{row['peak_bytes'] / 2**30:.2f} GiB"
        click.echo(f"{model:<35} {row['clips']:>3} clips {row['precision']} {row['step_s']:9.4f} s {size}", err=True)

    result = bench_step.step(show, _device(device))
    if as_json:
        click.echo(json.dumps(result))
    else:
        for each in result["ratios"]:
            name = f"{each['ifm']}, {each['features']}, {each['clips']} clips"
            click.echo(f"{name}: {each['time_ratio']:.1f}× less time, {each['memory_ratio']:.1f}× less memory")


@bench.command()
@json_option
def decode(as_json: bool) -> None:
    """Measure decoded clips per second, and compare with a plain decord loop and with decoding whole videos."""
    from advise_ray.bench import decode as bench_decode

    def show(name: str, figures: dict[str, float]) -> None:
        row = "  ".join(f"{arm.removesuffix('_clips_per_s')} {value:.1f}" for arm, value in figures.items())
        click.echo(f"{name:<8} clips/s: {row}", err=True)

    result = bench_decode.decode(show)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(f"memory growth over 5,000 decodes: {result['resident_growth_bytes'] / 2**20:.0f} MiB")


@bench.command()
@click.option("--ifm", "ifms", multiple=True, metavar="NAME", help="Measure only this image model; repeatable.")
@set_option
@device_option
@json_option
def pipeline(ifms: tuple[str, ...], overrides: tuple[str, ...], device: str | None, as_json: bool) -> None:
    """Measure training clips per second: live, from a feature cache, and in a plain PyTorch program; and the limits."""
    from advise_ray.bench import pipeline as bench_pipeline

    def show(ifm: str, arm: str, clips_per_s: float) -> None:
        click.echo(f"{ifm:<28} {arm:<12} {clips_per_s:8.1f} clips/s", err=True)

    result = bench_pipeline.pipeline(show, ifms or bench_pipeline.IFMS, overrides, _device(device))
    if as_json:
        click.echo(json.dumps(result))
        return
    for ifm in ifms or bench_pipeline.IFMS:
        figures = {name.removesuffix("_clips_per_s"): value for name, value in result[ifm].items()}
        click.echo(f"{ifm}: " + ", ".join(f"{name} {value:.1f}" for name, value in figures.items()))
        click.echo(
            f"  live / torch {figures['live'] / figures['torch']:.2f}, "
            f"cached / TMM only {figures['cached'] / figures['tmm_only']:.2f}, "
            f"cached / live {figures['cached'] / figures['live']:.1f}, cached / R3D-50 "
            f"{figures['cached'] / figures['r3d50']:.1f}"
        )
        cores = result["decode_cores"] * figures["step_only"] / figures["decode_only"]
        click.echo(f"  live training at the speed of its steps needs {cores:.1f} cores that decode")

"""The command `advise-ray data`: writes and checks manifests, and synthesizes videos for experiments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from advise_ray.cli.cluster_option import cluster_option
from advise_ray.cli.group import main
from advise_ray.cli.shared import UserPath, config_option, json_option, load, set_option, show, show_with_notes
from advise_ray.errors import AdviseRayError
from advise_ray.video.layouts import LAYOUTS

if TYPE_CHECKING:
    from advise_ray.video.probe import Limits

timeout_option = click.option(
    "--timeout-s",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Time limit per video.",
)
max_pixels_option = click.option(
    "--max-pixels", type=click.IntRange(1), help="Reject videos with larger frames (width × height)."
)
max_frames_option = click.option("--max-frames", type=click.IntRange(1), help="Reject videos with more frames.")
max_duration_option = click.option(
    "--max-duration-s", type=click.FloatRange(0, min_open=True), help="Reject longer videos."
)


@main.group()
def data() -> None:
    """Work with data sets: write a manifest, check it, describe it, or synthesize videos."""


@data.command()
@click.option("--format", "layout", type=click.Choice(list(LAYOUTS)), required=True, help="Layout of the data set.")
@click.option(
    "--videos", required=True, metavar="DIR_OR_URL", help="Folder of the videos: local, or s3://, http://, …."
)
@click.option("--annotations", type=UserPath(), help="Folder or file with the data set's annotations.")
@click.option(
    "--split",
    type=click.IntRange(1),
    help="Number of the official split (ucf101, hmdb51; default 1) or of the lists (list).",
)
@click.option("--out", type=UserPath(), required=True, help="Manifest to write (Parquet).")
@click.option(
    "--test-fraction",
    type=click.FloatRange(0, 0.5, min_open=True),
    help="Fraction of the videos to hold out for testing; 0.25 makes four official splits.",
)
@click.option(
    "--group-by",
    metavar="REGEX",
    help="Only with --test-fraction: keep videos together whose paths have the same match, such as a person's name.",
)
@click.option("--keep-damaged", is_flag=True, help="Keep the longest readable part of a damaged video.")
@timeout_option
@max_pixels_option
@max_frames_option
@max_duration_option
@json_option
@cluster_option
def index(
    layout: str,
    videos: str,
    annotations: Path | None,
    split: int | None,
    out: Path,
    test_fraction: float | None,
    group_by: str | None,
    keep_damaged: bool,
    timeout_s: float,
    max_pixels: int | None,
    max_frames: int | None,
    max_duration_s: float | None,
    as_json: bool,
) -> None:
    """Read every video and write the manifest. If it exists, read only new and changed videos."""
    from advise_ray import dataset
    from advise_ray.cli import progress
    from advise_ray.storage import remote
    from advise_ray.video import annotations as lists

    videos = remote.local_or_url(videos)
    if (annotations is None) != (layout == "folder"):
        raise click.UsageError(f"--format {layout} {'takes no' if layout == 'folder' else 'needs'} --annotations")
    if split is not None and layout not in ("ucf101", "hmdb51", "list"):
        raise click.UsageError(f"--split: --format {layout} has no numbered splits")
    if group_by is not None and test_fraction is None:
        raise click.UsageError("--group-by needs --test-fraction")
    listing = lists.read(layout, videos, annotations, split)
    if test_fraction is not None:
        listing = lists.hold_out(listing, test_fraction, group_by)
    with progress.counting("reading videos") as on_progress:
        summary = dataset.index(
            listing,
            lists.root_and_file(videos)[0],
            out.absolute(),
            timeout_s=timeout_s,
            limits=_limits(max_pixels, max_frames, max_duration_s),
            keep_damaged=keep_damaged,
            on_progress=on_progress,
        )
    show_with_notes(summary, as_json)


@data.command()
@click.argument("manifest", type=UserPath())
@click.option("--out", type=UserPath(), help="File for the rejected videos (Parquet); default: MANIFEST.check.parquet.")
@click.option("--drop", type=UserPath(), metavar="FILE", help="Also write a manifest without the rejected videos.")
@timeout_option
@max_pixels_option
@max_frames_option
@max_duration_option
@json_option
@cluster_option
def check(
    manifest: Path,
    out: Path | None,
    drop: Path | None,
    timeout_s: float,
    max_pixels: int | None,
    max_frames: int | None,
    max_duration_s: float | None,
    as_json: bool,
) -> None:
    """Decode every video of a manifest completely. Exit with 1 if a video fails, or its file has changed."""
    from advise_ray import dataset
    from advise_ray.cli import progress

    rejects = (out or manifest.with_name(manifest.name + ".check.parquet")).absolute()
    with progress.counting("reading videos") as on_progress:
        summary = dataset.check(
            manifest.absolute(),
            rejects,
            drop=drop and drop.absolute(),
            timeout_s=timeout_s,
            limits=_limits(max_pixels, max_frames, max_duration_s),
            on_progress=on_progress,
        )
    show(summary, as_json)
    if summary["rejected"]:
        sys.exit(AdviseRayError.exit_code)


@data.command()
@click.argument("manifest", type=UserPath())
@click.option("--out", type=UserPath(), required=True, help="HTML file to write.")
@config_option
@set_option
@json_option
def stats(manifest: Path, out: Path, recipe: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Write a page about a data set: durations, sizes, classes, which rates fit, and clips as the model gets them."""
    from advise_ray import dataset

    show(dataset.write_report(manifest.absolute(), out.absolute(), load(recipe, overrides)), as_json)


@data.command()
@click.argument("directory", type=UserPath(file_okay=False))
@click.option("--videos", "num_videos", type=click.IntRange(1), default=64, show_default=True, help="Number of videos.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random motions.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(list(LAYOUTS)),
    default="folder",
    show_default=True,
    help="Layout of the files.",
)
def synth(directory: Path, num_videos: int, seed: int, layout: str) -> None:
    """Write small labelled videos of eight classes that differ in motion, not in appearance."""
    from advise_ray.cli import progress
    from advise_ray.video.synth import synthesize

    with progress.counting("writing videos") as on_progress:
        synthesize(directory, num_videos, seed, layout, on_progress=on_progress)
    click.echo(str(directory))


def _limits(max_pixels: int | None, max_frames: int | None, max_duration_s: float | None) -> Limits:
    from advise_ray.video.probe import LIMITS, Limits

    return Limits(
        max_pixels=max_pixels or LIMITS.max_pixels,
        max_frames=max_frames or LIMITS.max_frames,
        max_duration_s=max_duration_s or LIMITS.max_duration_s,
    )

"""`advise-ray data`: manifests, and videos to try things on."""

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
    from advise_ray.video.decode import Limits

timeout_option = click.option(
    "--timeout-s", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True, help="For one video."
)
max_pixels_option = click.option("--max-pixels", type=click.IntRange(1), help="Refuse larger pictures.")
max_frames_option = click.option("--max-frames", type=click.IntRange(1), help="Refuse videos of more frames.")
max_duration_option = click.option(
    "--max-duration-s", type=click.FloatRange(0, min_open=True), help="Refuse longer videos."
)


@main.group()
def data() -> None:
    """Data sets: make a manifest, make videos to try things on."""


@data.command()
@click.option("--format", "layout", type=click.Choice(list(LAYOUTS)), required=True)
@click.option("--videos", required=True, metavar="DIR_OR_URL", help="Folder of the videos, local or s3://, http://, ….")
@click.option("--annotations", type=UserPath(), help="Folder (or file) of the data set's lists.")
@click.option(
    "--split",
    type=click.IntRange(1),
    help="Official split (ucf101, hmdb51; else 1), or which lists (list).",
)
@click.option("--out", type=UserPath(), required=True, help="Manifest to write (Parquet).")
@click.option(
    "--test-fraction",
    type=click.FloatRange(0, 0.5, min_open=True),
    help="Hold out so many of the videos for testing; 0.25 makes four official splits.",
)
@click.option(
    "--group-by", metavar="REGEX", help="What is held out whole: what this finds in the path, such as a person."
)
@click.option("--keep-damaged", is_flag=True, help="Keep the longest part of a damaged video that can be read.")
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
    """Read every video once and write the manifest; a second time, read only what has changed."""
    from advise_ray import dataset
    from advise_ray.cli import progress
    from advise_ray.storage import remote
    from advise_ray.video import annotations as lists

    videos = remote.local_or_url(videos)
    if (annotations is None) != (layout == "folder"):
        raise click.UsageError(f"--format {layout} needs {'no ' if layout == 'folder' else ''}--annotations")
    if split is not None and layout not in ("ucf101", "hmdb51", "list"):
        raise click.UsageError(f"--split: {layout} has no numbered splits")
    if group_by is not None and test_fraction is None:
        raise click.UsageError("--group-by says what --test-fraction holds out; give both")
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
@click.option("--out", type=UserPath(), help="Rejects to write (Parquet); default: MANIFEST.check.parquet.")
@click.option("--drop", type=UserPath(), metavar="FILE", help="Write a manifest without them.")
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
    """Decode every video of a manifest to its end; exit 1 if any of them fails, or is not what it was."""
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
@click.option("--out", type=UserPath(), required=True, help="Page to write (HTML).")
@config_option
@set_option
@json_option
def stats(manifest: Path, out: Path, recipe: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Write a page that shows a data set: durations, sizes, classes, which rates fit, clips as the model gets them."""
    from advise_ray import dataset

    show(dataset.write_report(manifest.absolute(), out.absolute(), load(recipe, overrides)), as_json)


@data.command()
@click.argument("directory", type=UserPath(file_okay=False))
@click.option("--videos", "num_videos", type=click.IntRange(1), default=64, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--format", "layout", type=click.Choice(list(LAYOUTS)), default="folder", show_default=True)
def synth(directory: Path, num_videos: int, seed: int, layout: str) -> None:
    """Write small labelled motion videos: eight classes that differ in how things move, not in looks."""
    from advise_ray.cli import progress
    from advise_ray.video.synth import synthesize

    with progress.counting("writing videos") as on_progress:
        synthesize(directory, num_videos, seed, layout, on_progress=on_progress)
    click.echo(str(directory))


def _limits(max_pixels: int | None, max_frames: int | None, max_duration_s: float | None) -> Limits:
    from advise_ray.video.decode import LIMITS, Limits

    return Limits(
        max_pixels=max_pixels or LIMITS.max_pixels,
        max_frames=max_frames or LIMITS.max_frames,
        max_duration_s=max_duration_s or LIMITS.max_duration_s,
    )

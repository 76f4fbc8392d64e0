"""`advise-ray cache`."""

from __future__ import annotations

import click

from advise_ray.cli.group import main
from advise_ray.cli.shared import config_option, json_option, load, set_option, show


@main.command()
@config_option
@set_option
@click.option("--out", metavar="DIR_OR_URL", required=True, help="The cache: a folder, or s3://, gs://, hdfs://.")
@json_option
def cache(recipe: str | None, overrides: tuple[str, ...], out: str, as_json: bool) -> None:
    """Compute the frozen features of a manifest once; train from them by --set data.features=DIR.

    An interrupted job goes on where it was; videos that the manifest has got since are added.
    """
    from advise_ray import progress
    from advise_ray.cache.job import CacheJob

    job = CacheJob(load(recipe or "quickstart", overrides), out)
    with progress.counting("encoding videos") as on_progress:
        result = job.run(on_progress)
    show(result, as_json)

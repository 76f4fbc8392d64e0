"""The command `advise-ray cache`."""

from __future__ import annotations

from pathlib import Path

import click

from advise_ray.cli.cluster_option import cluster_option
from advise_ray.cli.group import main
from advise_ray.cli.shared import (
    config_option,
    estimate,
    json_option,
    load,
    rates_option,
    set_option,
    show,
    show_with_notes,
)


@main.command()
@config_option
@set_option
@click.option(
    "--out", metavar="DIR_OR_URL", required=True, help="Where to write the cache: a folder, or s3://, gs://, hdfs://."
)
@click.option("--dry-run", is_flag=True, help="Print the cache's size and time, and smaller caches; write nothing.")
@rates_option
@json_option
@cluster_option
def cache(
    recipe: str | None, overrides: tuple[str, ...], out: str, dry_run: bool, rates: Path | None, as_json: bool
) -> None:
    """Compute the image model's features of all videos once. To train on them: --set data.features=DIR.

    Run the same command again to continue an interrupted job, or to add videos that are new in the manifest.
    """
    if rates is not None and not dry_run:
        raise click.UsageError("--rates needs --dry-run")
    config = load(recipe or "quickstart", overrides)
    from advise_ray.cache.cache_plan import plan_cache
    from advise_ray.cache.writer import write_cache
    from advise_ray.cli import progress, run_view

    plan = plan_cache(config, out)
    if dry_run:
        from advise_ray.training.plan import make_plan

        # The training that will use this cache has no features and no initial weights yet.
        config = load(recipe or "quickstart", (*overrides, "data.features=null"))
        show_with_notes(plan.summary() | {"cost": estimate(make_plan(config, begun=True), rates)}, as_json)
        return
    with progress.counting("encoding videos") as on_progress:
        result = write_cache(plan, on_progress)
    show(result, as_json)
    progress.tell(f"next: {run_view.train_on(out, config, recipe, overrides)}")

"""The command `advise-ray search`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advise_ray.cli.group import main
from advise_ray.cli.shared import UserPath, json_option

if TYPE_CHECKING:
    from advise_ray.deploy.clip_search import Match, SearchResult


@main.command()
@click.argument("embeddings", type=UserPath())
@click.option(
    "--like",
    metavar="CLIP[@START-END]|VIDEO_ID",
    help="List the clips that are most like this one: a video of EMBEDDINGS, or a video file; in seconds.",
)
@click.option("--odd", is_flag=True, help="List the clips that are farthest from their neighbours.")
@click.option("--duplicates", is_flag=True, help="List pairs of near-identical clips.")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Number of results to list.")
@click.option("--html", "page", type=UserPath(), metavar="FILE", help="Also write a page with a map of the clips.")
@click.option(
    "--run", metavar="CHECKPOINT_OR_RUN", help="The run that made EMBEDDINGS, if it has moved; to embed a file."
)
@click.option("--videos", metavar="DIR_OR_URL", help="The videos of EMBEDDINGS, if they have moved; for the page.")
@json_option
def search(
    embeddings: Path,
    like: str | None,
    odd: bool,
    duplicates: bool,
    top: int,
    page: Path | None,
    run: str | None,
    videos: str | None,
    as_json: bool,
) -> None:
    """Search the clips of a file that `advise-ray embed` wrote, by the cosine of their embeddings."""
    if (like is not None) + odd + duplicates != 1:
        raise click.UsageError("give one of --like, --odd and --duplicates")
    if (videos is not None and page is None) or (run is not None and like is None):
        raise click.UsageError("--videos needs --html, and --run needs --like")
    from advise_ray.cli import progress
    from advise_ray.deploy.clip_pictures import find_videos
    from advise_ray.deploy.clip_search import Search
    from advise_ray.storage import remote

    if page is not None:
        from advise_ray.deploy import atlas

        atlas.refuse_impossible(page, embeddings)
    place = remote.local_or_url(videos) if videos is not None else None
    if place is not None:
        find_videos(place)  # raises UsageError before the clips are compared, which takes long
    with progress.counting("comparing clips") as on_progress:
        searching = Search(embeddings.absolute(), on_progress)
        answer = (
            searching.like(like, top, run)
            if like is not None
            else searching.odd(top)
            if odd
            else searching.duplicates(top)
        )
    result = answer.result
    written: dict[str, Any] = {}
    if page is not None:
        with progress.counting("taking pictures") as on_progress:
            written.update(
                atlas.write_page(searching.index, page.absolute(), answer, videos=place, on_progress=on_progress)
            )
    if as_json:
        click.echo(json.dumps({**result, **written}))
        return
    click.echo(_table(result, pairs=duplicates))
    if page is not None:
        click.echo(f"page: {page.absolute()}")
    if not result["is_exact"]:
        progress.tell("note: not every clip was compared with every other one; a few results can be missing")


def _table(result: SearchResult, *, pairs: bool) -> str:
    query, matches = result["query"], result["matches"]
    title = f"{len(matches)} of {result['total']:,}"
    if query is not None:
        span = f"{_seconds(query['start_s'], query['end_s'])}, {query['clips']} clip{'s'[: query['clips'] != 1]}"
        title += f" clips, most like {query['video']} ({span}) first; cosine"
    elif pairs:
        title += " pairs of videos with near-identical clips; cosine"
    else:
        title += " clips, farthest from their neighbours first; mean cosine distance"
    names = [_names(match) for match in matches]
    width = max(map(len, names), default=0)
    rows = [
        f"{match['rank']:>5}  {match.get('similarity', match.get('distance')):>7.4f}  {name:<{width}}{_pairs(match)}"
        for match, name in zip(matches, names, strict=True)
    ]
    return "\n".join([title, *(row.rstrip() for row in rows)])


def _names(match: Match) -> str:
    name = f"{match['video_id']}  {_seconds(match['start_s'], match['end_s'])}"
    if "other_video_id" in match:
        name += f"  =  {match['other_video_id']}  {_seconds(match['other_start_s'], match['other_end_s'])}"
    return name


def _pairs(match: Match) -> str:
    pairs = match.get("pairs", 1)
    return f"  ({pairs} pairs)" if pairs > 1 else ""


def _seconds(start_s: float, end_s: float) -> str:
    return f"{start_s:.2f}–{end_s:.2f} s"

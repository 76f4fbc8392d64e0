"""Writes a page with a map of embedded clips: pictures, classes or clusters, neighbours. It loads nothing else."""

from __future__ import annotations

import html
import importlib.resources
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from advise_ray.deploy.clip_index import ClipIndex, Clips
from advise_ray.deploy.clip_pictures import SHEET_TILES, Pictures, Places, find_videos, take_pictures
from advise_ray.deploy.clip_search import Answer
from advise_ray.deploy.neighbours import NUM_NEIGHBOURS, OnProgress, nearest
from advise_ray.errors import UsageError
from advise_ray.storage.atomic import refuse_unwritable, write_whole

log = logging.getLogger("advise_ray")

MOST_CLIPS = 20_000
"""Maximum number of clips on a page; of more clips a random sample is shown."""
LARGE_PX, SMALL_PX = (128, 96), (80, 60)
"""Width and height of the pictures, on a page with up to `MOST_LARGE` clips and on one with more."""
MOST_LARGE = 4000
FEWEST_FOR_UMAP = 32
NUM_COMPONENTS = 50
MOST_CLUSTERS = 12
BY_UMAP = (
    f"The map is made by UMAP from up to {NUM_COMPONENTS} principal components: near clips are alike, but distances "
    "between groups mean little. Neighbours are exact, by cosine."
)
BY_COMPONENTS = f"The map shows the first two principal components, because UMAP needs {FEWEST_FOR_UMAP} clips."


class Page(TypedDict):
    """What `write_page` has written: the file, its size, its number of clips, and how many of these have a picture."""

    page: str
    page_bytes: int
    page_clips: int
    page_pictures: int


def refuse_impossible(page: Path, embeddings: Path) -> None:
    """Raise UsageError if a page cannot be written: call it before work that takes long."""
    if importlib.util.find_spec("umap") is None:
        raise UsageError("--html needs umap-learn, which places the clips on the map; pip install umap-learn")
    if page.absolute() == embeddings.absolute():
        raise UsageError("--html: this file is the embeddings file; give another file name")
    refuse_unwritable(page, "--html")


def write_page(
    index: ClipIndex,
    page: Path,
    answer: Answer | None = None,
    *,
    videos: str | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Page:
    """Write the page.

    Args:
        answer: what a search has found; the page lists it.
        videos: folder, URL or manifest of the videos; None: where they were when they were embedded. If they are not
            there, the page has no pictures, and a note says so.

    Raises:
        UsageError: the embeddings are damaged.
    """
    rows = _chosen(index, answer)
    clips = index.read(rows)
    notes = [BY_COMPONENTS] if len(rows) < FEWEST_FOR_UMAP else []
    if len(rows) < len(index):
        notes.append(f"A random sample of {len(rows):,} of {len(index):,} clips.")
    places = _places(index, videos, notes)
    middles_s = (index.start_s[rows] + index.end_s[rows]) / 2
    ids = [index.video_ids[code] for code in index.video[rows]]
    size_px = LARGE_PX if len(rows) <= MOST_LARGE else SMALL_PX
    pictures = take_pictures(ids, middles_s, places, *size_px, on_progress) if places.paths else None
    if pictures is not None and pictures.failed:
        name, reason = next(iter(pictures.failed.items()))
        notes.append(f"{len(pictures.failed)} videos have no pictures, such as {name}: {reason}.")
    components = principal_components(clips)
    neighbours, cosines = nearest(clips, np.arange(len(clips)), np.arange(len(clips)), NUM_NEIGHBOURS)
    shown = {
        "title": index.path.name,
        "about": f"{len(rows):,} clips of {len(set(ids)):,} videos",
        "notes": ([] if len(rows) < FEWEST_FOR_UMAP else [BY_UMAP]) + notes,
        "points": np.round(place_on_map(components) * 65535).astype(int).T.tolist(),
        "videos": index.video_ids,
        "video": index.video[rows].tolist(),
        "start": np.round(index.start_s[rows], 2).tolist(),
        "end": np.round(index.end_s[rows], 2).tolist(),
        "neighbours": neighbours.ravel().tolist(),
        "cosines": np.round(np.where(neighbours >= 0, cosines, 0).ravel() * 10000).astype(int).tolist(),
        "numNeighbours": NUM_NEIGHBOURS,
        "colours": _colours(index, rows, ids, places, components),
        "tiles": None if pictures is None else _tiles(pictures),
        "found": None if answer is None else _found(answer, rows),
    }
    page.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page, _html(shown, [] if pictures is None else pictures.sheets))
    for note in notes:
        log.warning("note: %s: %s", page.name, note)
    num_pictures = 0 if pictures is None else int(pictures.is_there.sum())
    return {
        "page": str(page),
        "page_bytes": page.stat().st_size,
        "page_clips": len(rows),
        "page_pictures": num_pictures,
    }


def _chosen(index: ClipIndex, answer: Answer | None) -> NDArray[np.int64]:
    """Rows of the clips on the page, ascending: all, or what was found and a sample."""
    found = np.union1d(answer.rows, answer.query_rows) if answer is not None else np.empty(0, np.int64)
    if len(index) <= MOST_CLIPS:
        return np.arange(len(index))
    rest = np.setdiff1d(np.arange(len(index)), found)
    sample = np.random.default_rng(0).choice(rest, max(0, MOST_CLIPS - len(found)), replace=False)
    return np.sort(np.concatenate([found, sample]))


def _places(index: ClipIndex, videos: str | None, notes: list[str]) -> Places:
    source = videos or (index.sources["videos"] if index.sources else None)
    if source is None:
        notes.append("No pictures: the embeddings file does not say where its videos are; give --videos.")
        return Places({}, {})
    try:
        return find_videos(source)
    except UsageError as error:
        if videos is not None:
            raise
        notes.append(f"No pictures: the videos are not there any more ({error}); give --videos.")
        return Places({}, {})


def principal_components(clips: Clips) -> NDArray[np.float32]:
    """Project on up to 50 principal components: float32[m, ≤ 50]."""
    vectors = clips.vectors.astype(np.float32)
    vectors -= vectors.mean(0)
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    projected: NDArray[np.float32] = vectors @ axes[:, ::-1][:, :NUM_COMPONENTS]
    return projected


def place_on_map(components: NDArray[np.float32]) -> NDArray[np.float64]:
    """Two coordinates from 0 to 1 for each clip, float64[m, 2]: UMAP, or with few clips the first two components."""
    if len(components) < FEWEST_FOR_UMAP:
        points = np.pad(components, ((0, 0), (0, 2)))[:, :2]
    else:
        from umap import UMAP

        points = UMAP(n_neighbors=15, min_dist=0.1, init="pca", random_state=0, n_jobs=1).fit_transform(components)
    points = np.nan_to_num(points.astype(np.float64))
    size = max(float(np.ptp(points, axis=0).max()), 1e-12)
    middle = (points.max(0) + points.min(0)) / 2
    return np.clip((points - middle) / size + 0.5, 0, 1)


def _colours(
    index: ClipIndex, rows: NDArray[np.int64], ids: list[str], places: Places, components: NDArray[np.float32]
) -> dict[str, Any]:
    """By what the points can be coloured: `names` of the groups, and the group of each clip."""
    colours = {}
    classes = [places.classes.get(video_id, "no class") for video_id in ids]
    if len(set(classes)) > 1:
        colours["class"] = _grouped(classes)
    table = pq.read_table(index.path, columns=["top_classes", "error"])
    top = table.filter(table.column("error").is_null()).column("top_classes").take(rows).to_pylist()
    if any(top):
        colours["predicted"] = _grouped([each[0] if each else "none" for each in top])
    colours["cluster"] = _grouped([f"cluster {number + 1:02d}" for number in _clusters(components)])
    return colours


def _grouped(names: list[str]) -> dict[str, Any]:
    known, groups = np.unique(np.asarray(names, dtype=object), return_inverse=True)
    return {"names": known.tolist(), "of": groups.tolist()}


def _clusters(components: NDArray[np.float32]) -> NDArray[np.int64]:
    from scipy.cluster.vq import kmeans2

    count = int(np.clip(np.sqrt(len(components) / 2), 1, MOST_CLUSTERS))
    groups: NDArray[np.int64] = kmeans2(components, count, minit="++", rng=0, missing="warn")[1]
    return groups


def _tiles(pictures: Pictures) -> dict[str, Any]:
    there = pictures.is_there.astype(int).tolist()
    return {"width": pictures.width_px, "height": pictures.height_px, "perRow": SHEET_TILES, "there": there}


def _found(answer: Answer, rows: NDArray[np.int64]) -> dict[str, Any]:
    query = answer.result["query"]
    scores = [match.get("similarity", match.get("distance")) for match in answer.result["matches"]]
    places = np.searchsorted(rows, answer.rows)
    places = places[:, None] if places.ndim == 1 else places
    title = "Near-identical clips" if places.shape[1] == 2 else "Odd clips: distance to their neighbours"
    if query is not None:
        marked = " (thick ring)" if len(answer.query_rows) else ""
        title = f"Most like {query['video']}, {query['start_s']:g}–{query['end_s']:g} s{marked}"
    asked = np.searchsorted(rows, np.intersect1d(answer.query_rows, rows)).tolist()
    return {
        "title": title,
        "asked": asked,
        "items": [[*place, score] for place, score in zip(places.tolist(), scores, strict=True)],
    }


def _html(shown: dict[str, Any], sheets: list[str]) -> str:
    """Fill the template. Names cannot end a script element, because `<` is escaped."""
    template = importlib.resources.files("advise_ray.deploy").joinpath("atlas.html").read_text(encoding="utf-8")
    data = json.dumps(shown, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    pictures = "".join(f'<script type="text/plain" class="sheet">{sheet}</script>\n' for sheet in sheets)
    head, rest = template.split("{{TITLE}}")
    middle, rest = rest.split("{{SHEETS}}")
    before, after = rest.split("{{DATA}}")
    return "".join([head, html.escape(str(shown["title"])), middle, pictures, before, data, after])

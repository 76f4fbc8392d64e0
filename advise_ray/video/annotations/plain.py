"""Data sets without a format of their own: a folder of videos, or lists of `path label` lines."""

from __future__ import annotations

from pathlib import Path

from advise_ray.errors import UsageError
from advise_ray.video.annotations.listing import (
    AUDIO_SUFFIXES,
    VIDEO_SUFFIXES,
    Files,
    ListedVideo,
    Listing,
    checked,
    lines,
    suffix_of,
)

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read_folder(videos: str | Path) -> Listing:
    """`root/<class>/<video>`, `root/<split>/<class>/<video>`, `root/<split>/<video>`, or any tree without labels."""
    files = Files(videos)
    if not (files.stored or files.unnameable):
        raise UsageError(f"--videos: {videos}: no video files (looked for {', '.join(sorted(VIDEO_SUFFIXES))})")
    found = _by_folders([path.split("/") for path in sorted(files.stored)])
    classes = sorted({video.class_name for video in found if video.class_name is not None})
    listing = Listing(classes, found)
    for path in files.others:
        suffix = suffix_of(path)
        if suffix in AUDIO_SUFFIXES:
            listing.problems[path] = f"no video: a {suffix} file"
        else:
            listing.other_files[suffix or "none"] = listing.other_files.get(suffix or "none", 0) + 1
    return checked(listing, files)


def _by_folders(paths: list[list[str]]) -> list[ListedVideo]:
    in_splits = all(parts[0].lower() in SPLIT_NAMES for parts in paths)
    if in_splits and all(len(parts) == 3 for parts in paths):
        return [ListedVideo("/".join(parts), parts[1], SPLIT_NAMES[parts[0].lower()]) for parts in paths]
    if in_splits and all(len(parts) == 2 for parts in paths):
        return [ListedVideo("/".join(parts), None, SPLIT_NAMES[parts[0].lower()]) for parts in paths]
    if all(len(parts) == 2 for parts in paths):
        return [ListedVideo("/".join(parts), parts[0]) for parts in paths]
    return [ListedVideo("/".join(parts)) for parts in paths]


def read_list(videos: str | Path, annotations: Path) -> Listing:
    """Plain lists of `path label` lines, one file or a folder of `*train*`, `*val*`, `*test*` `.txt`/`.csv` files.

    The separator is white space or a comma; the label is the last field, a number or a name; a line that is a path
    alone has no label.
    """
    files = Files(videos)
    listing = Listing([])
    for list_file, split_name in _list_files(annotations):
        for number, line in lines(list_file, "the list"):
            path, label = _split_label(line, files)
            files.place(ListedVideo(path, label, split_name), listing, f"{list_file}:{number}")
    # Those of missing videos too: a class keeps its number when the rest has been downloaded.
    named = {video.class_name for video in (*listing.found, *listing.missing) if video.class_name is not None}
    listing.classes = _in_label_order(named)
    return checked(listing, files)


def _in_label_order(names: set[str]) -> list[str]:
    """Numbers by value, names by alphabet."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _split_label(line: str, files: Files) -> tuple[str, str | None]:
    if files.find(line) is not None:
        return line, None
    splits = [parts for parts in (line.rsplit(",", 1), line.rsplit(maxsplit=1)) if len(parts) == 2]
    there = [parts for parts in splits if files.find(parts[0].strip()) is not None]
    path, label = (*there, *splits, (line, ""))[0]
    return path.strip(), label.strip() or None


def _list_files(annotations: Path) -> list[tuple[Path, str]]:
    if annotations.is_file():
        return [(annotations, _split_in_name(annotations) or "train")]
    if not annotations.is_dir():
        raise UsageError(f"--annotations: {annotations} does not exist")
    named = [(path, _split_in_name(path)) for path in sorted(annotations.iterdir()) if path.suffix in (".txt", ".csv")]
    files = [(path, split_name) for path, split_name in named if split_name is not None]
    if not files:
        raise UsageError(f"--annotations: no *train*, *val* or *test* .txt or .csv list in {annotations}")
    return files


def _split_in_name(path: Path) -> str | None:
    words = path.stem.lower().replace("-", "_").split("_")
    for name, split_name in SPLIT_NAMES.items():
        if any(word.startswith(name) for word in words):
            return split_name
    return None

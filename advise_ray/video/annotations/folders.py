"""A folder of videos, as people arrange them: by class, by split, or not at all."""

from __future__ import annotations

from pathlib import Path

from advise_ray.errors import UsageError
from advise_ray.video.annotations.files import VIDEO_SUFFIXES, Files, checked, suffix_of
from advise_ray.video.annotations.forms import SPLIT_NAMES
from advise_ray.video.annotations.listing import ListedVideo, Listing

AUDIO_SUFFIXES = frozenset((".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav", ".wma"))
"""A folder's sounds are named among what was rejected: some took them for videos."""


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

"""Reads a folder of videos that are arranged by class, by split, or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from advise_ray.errors import UsageError
from advise_ray.video.annotations.files import KINDS, Files, checked, kind_of, without_suffix
from advise_ray.video.annotations.forms import split_of_folder
from advise_ray.video.annotations.listing import ListedVideo, Listing

MOSTLY = 0.9
"""Fraction of the videos that must follow a layout for it to be recognized. The others are reported as strays."""
Parts = list[str]


def read_folder(videos: str | Path) -> Listing:
    """Read `root/<class>/<video>`, `root/<split>/<class>/<video>`, `root/<split>/<video>`, any tree, or one file.

    Up to a tenth of the videos may be elsewhere; these strays get no label or no split. If the tree follows none of
    these layouts, no video gets a label.

    Raises:
        UsageError: There are no videos. The message says which other files there are.
    """
    files = Files(videos)
    listing = Listing([], other_files=dict(Counter(map(kind_of, files.others))))
    if not (files.stored or files.unnameable):
        raise UsageError(f"--videos: {videos}: {_describe_other_files(listing.other_files)}")
    for path in files.others:
        if (kind := kind_of(path)).startswith("sounds"):
            listing.skipped[path] = f"no video: {kind}"
    listing.found = _by_folders([path.split("/") for path in sorted(files.stored)], listing.notes, str(files.root))
    listing.classes = sorted({video.class_name for video in listing.found if video.class_name is not None})
    stems = Counter(map(without_suffix, files.stored))
    if twice := [stem for stem, count in stems.items() if count > 1]:
        listing.notes.append(
            f"{len(twice)} video(s) are there with several suffixes, such as {min(twice)}: each file counts as a video"
        )
    return checked(listing, files)


def _describe_other_files(others: dict[str, int]) -> str:
    if not others:
        return "the folder is empty, or has only hidden files"
    there = ", ".join(f"{kind}: {count}" for kind, count in sorted(others.items(), key=lambda each: -each[1])[:5])
    kinds = " ".join(others)
    how = ""
    if "pictures" in kinds:
        how = "; to convert a folder of pictures to a video: `ffmpeg -i FOLDER/%05d.jpg FOLDER.mp4`"
    elif "archives" in kinds:
        how = "; unpack the archives first"
    elif not any(kind in kinds for kind in KINDS):
        how = "; if these are videos, rename them, or name them in a list (--format list), which takes any suffix"
    return f"no video files, but {there}{how}"


def _by_folders(paths: Sequence[Parts], notes: list[str], root: str) -> list[ListedVideo]:
    in_split = [parts for parts in paths if len(parts) > 1 and split_of_folder(parts[0])]
    if len(in_split) >= MOSTLY * len(paths):
        return _by_splits(paths, notes)
    found = [ListedVideo("/".join(parts), parts[0] if len(parts) == 2 else None) for parts in paths]
    labelled = [len(parts) == 2 for parts in paths]
    if sum(labelled) >= MOSTLY * len(paths):
        _name_strays(notes, "not in class folders, and have no label", paths, lambda parts: len(parts) != 2)
        return found
    notes += _why_no_labels(paths, labelled, root)
    return [ListedVideo(video.path) for video in found]


def _by_splits(paths: Sequence[Parts], notes: list[str]) -> list[ListedVideo]:
    """Read each split separately, because the videos of a test set often have no classes."""
    split_of = ["/" if len(parts) == 1 else parts[0] for parts in paths]
    num_videos = Counter(split_of)
    num_labelled = Counter(split for split, parts in zip(split_of, paths, strict=True) if len(parts) == 3)
    with_classes = {split for split, count in num_labelled.items() if count >= MOSTLY * num_videos[split]}
    found, strays, outside = [], [], []
    for split, parts in zip(split_of, paths, strict=True):
        path, split_name = "/".join(parts), split_of_folder(split)
        if split_name is None:
            outside.append(parts)
        elif len(parts) != 3 and split in with_classes:
            strays.append(parts)
        has_class = split_name is not None and split in with_classes and len(parts) == 3
        found.append(ListedVideo(path, parts[1] if has_class else None, split_name))
    _name_strays(notes, "outside the split folders, and belong to no split", outside)
    _name_strays(notes, "not in class folders, and have no label", strays)
    plain = sorted({parts[0] for parts in paths if len(parts) > 1} - with_classes - {parts[0] for parts in outside})
    if with_classes and plain:
        notes.append(f"the videos in {', '.join(plain)} have no labels: they are not in class folders")
    return found


def _why_no_labels(paths: Sequence[Parts], labelled: Sequence[bool], root: str) -> list[str]:
    """Return why the folders are not used as classes; nothing for a folder without subfolders."""
    if all(len(parts) == 1 for parts in paths):
        return []
    tops = {parts[0] for parts in paths if len(parts) > 1}
    splits = {top for top in tops if split_of_folder(top)}
    if splits and len(splits) < len(tops):
        return [
            f"no labels: {min(splits)} is a split (train, val, test), but {min(tops - splits)} is not; rename it, or "
            "move it out of the folder"
        ]
    if len(tops) == 1 and all(len(parts) > 2 for parts in paths):
        return [
            f"no labels: all videos are in {tops.pop()}/; to use its folders as classes: --videos {root}/{paths[0][0]}"
        ]
    depth, count = Counter(map(len, paths)).most_common(1)[0]
    if depth <= 2 or count < MOSTLY * len(paths):
        stray = next("/".join(parts) for parts, is_labelled in zip(paths, labelled, strict=True) if not is_labelled)
        return [
            f"no labels: {len(paths) - sum(labelled)} of {len(paths)} videos are not in CLASS/VIDEO, such as {stray}; "
            "for labels, move them into class folders, or remove them"
        ]
    example = next("/".join(parts) for parts in paths if len(parts) == depth)
    return [f"no labels: videos are in {depth - 1} levels of folders, such as {example}, not in CLASS/VIDEO"]


def _name_strays(
    notes: list[str], what: str, paths: Sequence[Parts], is_stray: Callable[[Parts], bool] = lambda parts: True
) -> None:
    strays = ["/".join(parts) for parts in paths if is_stray(parts)]
    if strays:
        count = "1 video is" if len(strays) == 1 else f"{len(strays)} videos are"
        what = what.replace("have", "has").replace("belong", "belongs") if len(strays) == 1 else what
        notes.append(f"{count} {what}: {', '.join(strays[:3])}{', …' if len(strays) > 3 else ''}")

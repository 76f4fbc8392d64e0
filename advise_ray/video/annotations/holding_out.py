"""Makes test splits for data sets without one. A group is never divided, and each part gets its share of each class."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from advise_ray.errors import UsageError
from advise_ray.video.annotations.listing import ListedVideo, Listing
from advise_ray.video.random_split import deal
from advise_ray.video.splits import recording


def hold_out(listing: Listing, test_fraction: float, group_by: str | None) -> Listing:
    """Hold out a fraction of the training videos, and of the videos without a split, for testing.

    The listing gets ⌊1 / test_fraction⌋ official splits. With 0.25 there are four, and each video is a test video in
    one of them. `split` becomes the first official split. The result depends only on the names of the groups.

    Args:
        test_fraction: Fraction of the videos to hold out, from 0 to 0.5.
        group_by: Regular expression that is searched in each video's path. Its first group, or else the whole match,
            is the name of the video's group, such as a recording or a person. None: clips of one recording of UCF101
            form a group, and every other video is a group by itself.

    Raises:
        UsageError: The lists already have test videos, the expression is invalid or does not match, there are too few
            groups, or the videos of each class are one group.
    """
    if any(video.split == "test" for video in (*listing.found, *listing.missing)):
        raise UsageError("--test-fraction: the lists already have test videos; remove --test-fraction")
    num_splits = int(1 / Fraction(str(test_fraction)))
    groups = _groups([video.path for video in listing.found], group_by)
    free = [place for place, video in enumerate(listing.found) if video.split in (None, "train")]
    if not free:
        raise UsageError("--test-fraction: there are no videos to hold out: all are in a validation split")
    num_groups = len({groups[place] for place in free})
    if num_groups < max(num_splits, 2):
        raise UsageError(
            f"--test-fraction: {test_fraction:g} makes {num_splits} splits with different test videos, which needs at "
            f"least {max(num_splits, 2)} groups, but there {'is' if num_groups == 1 else 'are'} {num_groups}; use a "
            "larger fraction, or smaller groups"
        )
    shares = [test_fraction] * num_splits + [float(1 - num_splits * Fraction(str(test_fraction)))]
    classes = [listing.found[place].class_name or "" for place in free]
    parts = dict(zip(free, deal(classes, [groups[place] for place in free], shares), strict=True))
    found = []
    for place, (video, group) in enumerate(zip(listing.found, groups, strict=True)):
        splits: tuple[str | None, ...] = (video.split,) * num_splits
        if place in parts:
            splits = tuple("test" if parts[place] == number else "train" for number in range(num_splits))
        found.append(replace(video, split=splits[0], official_splits=splits, group=group))
    listing.found = found
    listing.notes += _one_sided([found[place] for place in free])
    return listing


def _one_sided(videos: list[ListedVideo]) -> list[str]:
    """Return a note about classes that, in one of the official splits, have no training or no test videos."""
    parts: dict[str, list[set[str | None]]] = {}
    for video in videos:
        if video.class_name is not None and video.official_splits is not None:
            sides = parts.setdefault(video.class_name, [set() for _ in video.official_splits])
            for side, split in zip(sides, video.official_splits, strict=True):
                side.add(split)
    one_sided = sorted(name for name, sides in parts.items() if any(len(side) < 2 for side in sides))
    if parts and all(len(side) < 2 for sides in parts.values() for side in sides):
        return [
            "no class has both training and test videos, because the videos of each class are one group. Pretraining "
            "can use this manifest, but no protocol with labels; for these, use --group-by with smaller groups"
        ]
    if not one_sided:
        return []
    return [
        f"{len(one_sided)} class(es), such as {one_sided[0]}, have no training or no test videos in some official "
        "splits: they have too few groups"
    ]


def _groups(paths: list[str], group_by: str | None) -> list[str]:
    if group_by is None:
        return [recording(path) for path in paths]
    try:
        matches = [re.search(group_by, path) for path in paths]
    except re.error as error:
        raise UsageError(f"--group-by: {group_by!r} is not a regular expression: {error}") from None
    names = [match and match.group(match.re.groups and 1) for match in matches]
    unmatched = [path for path, name in zip(paths, names, strict=True) if not name]
    if unmatched:
        raise UsageError(
            f"--group-by: {group_by!r} does not match {len(unmatched)} of {len(paths)} videos, such as {unmatched[0]}"
        )
    return [name for name in names if name]

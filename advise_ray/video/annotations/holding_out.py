"""A test split for videos that come without one: groups are held out whole, and every class is in each part."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from advise_ray.errors import UsageError
from advise_ray.video.annotations.listing import Listing
from advise_ray.video.dealing import deal
from advise_ray.video.manifest import recording


def hold_out(listing: Listing, test_fraction: float, group_by: str | None) -> Listing:
    """Hold out a share of the training videos, and of those without a split, for testing.

    The listing gets as many official splits as the share has room for: 0.25 gives four, and each video is a test video
    in one of them. The first one becomes `split`. Which groups go together follows from their names alone.

    Args:
        test_fraction: share of the videos, 0 to 0.5.
        group_by: regular expression that is searched in a video's path; its first group, or else all that it matches,
            names what is held out whole: a recording, a person. None: clips of one recording of UCF101 by their
            names, else each video by itself.

    Raises:
        UsageError: the lists have test videos already; the expression is none, or does not match; there are too few
            groups.
    """
    if any(video.split == "test" for video in (*listing.found, *listing.missing)):
        raise UsageError("--test-fraction: the lists say already which videos are for testing; leave it out")
    num_splits = int(1 / Fraction(str(test_fraction)))
    groups = _groups([video.path for video in listing.found], group_by)
    free = [place for place, video in enumerate(listing.found) if video.split in (None, "train")]
    num_groups = len({groups[place] for place in free})
    if num_groups < max(num_splits, 2):
        raise UsageError(
            f"--test-fraction: {test_fraction:g} holds something else out in each of {num_splits} splits, and there "
            f"are {num_groups} groups to hold out; take a larger fraction, or smaller groups"
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
    return listing


def _groups(paths: list[str], group_by: str | None) -> list[str]:
    if group_by is None:
        return [recording(path) for path in paths]
    try:
        matches = [re.search(group_by, path) for path in paths]
    except re.error as error:
        raise UsageError(f"--group-by: {group_by!r} is not a regular expression: {error}") from None
    unmatched = [path for path, match in zip(paths, matches, strict=True) if match is None]
    if unmatched:
        raise UsageError(
            f"--group-by: {group_by!r} does not match {len(unmatched)} of {len(paths)} videos, such as {unmatched[0]}"
        )
    return [match.group(match.re.groups and 1) or "" for match in matches if match is not None]

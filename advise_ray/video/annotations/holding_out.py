"""A test split for videos that come without one: groups are held out whole, and every class is in each part."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction

from advise_ray.errors import UsageError
from advise_ray.video.annotations.listing import ListedVideo, Listing
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
        UsageError: the lists have test videos already; or the expression is none, or does not match.
    """
    if any(video.split == "test" for video in (*listing.found, *listing.missing)):
        raise UsageError("--test-fraction: the lists say already which videos are for testing; leave it out")
    num_splits = int(1 / Fraction(str(test_fraction)))
    groups = _groups([video.path for video in listing.found], group_by)
    free = [
        (video, group) for video, group in zip(listing.found, groups, strict=True) if video.split in (None, "train")
    ]
    part = _deal(free, test_fraction, num_splits)
    found = []
    for video, group in zip(listing.found, groups, strict=True):
        if video.split in (None, "train"):
            splits = tuple("test" if part[group] == number else "train" for number in range(num_splits))
        else:
            splits = (video.split,) * num_splits
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


def _deal(videos: list[tuple[ListedVideo, str]], test_fraction: float, num_splits: int) -> dict[str, int]:
    """Group → the split in which it is held out, from 0; `num_splits` where it never is.

    The large groups come first, then in an order by lot; each goes where its classes lack most.
    """
    of_group: dict[str, Counter[str]] = {}
    for video, group in videos:
        of_group.setdefault(group, Counter())[video.class_name or ""] += 1
    total: Counter[str] = sum(of_group.values(), Counter())
    shares = [test_fraction] * num_splits + [1 - num_splits * test_fraction]
    parts = [share for share in enumerate(shares) if share[1] > 1e-9]
    held: list[Counter[str]] = [Counter() for _ in shares]
    dealt = {}
    for group in sorted(of_group, key=lambda name: (-of_group[name].total(), _lot(name))):
        classes = of_group[group]

        def filled(part: tuple[int, float], classes: Counter[str] = classes) -> float:
            """How full a part would be with the group, in the mean over the group's videos."""
            number, share = part
            each = ((held[number][name] + count) / (share * total[name]) * count for name, count in classes.items())
            return sum(each) / classes.total()

        dealt[group] = min(parts, key=filled)[0]
        held[dealt[group]] += classes
    return dealt


def _lot(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()

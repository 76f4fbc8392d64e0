"""Divides videos into parts, such as a test split or the folds of a cross-validation, without dividing groups."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence


def deal(classes: Sequence[str], groups: Sequence[str], shares: Sequence[float]) -> list[int]:
    """Assign each video to a part, from 0. Groups stay together, and each part gets its share of every class.

    Groups are assigned from large to small; equally large groups have a pseudorandom order that depends only on their
    names. A group goes to the part that lacks most of the group's classes, and, if parts are equal, to the emptiest.

    Args:
        classes: Class of each video.
        groups: Group of each video, such as a recording or a person.
        shares: Fraction of the videos for each part; a part with 0 gets no videos.

    Returns:
        The number of the part of each video.
    """
    of_group: dict[str, Counter[str]] = {}
    for name, group in zip(classes, groups, strict=True):
        of_group.setdefault(group, Counter())[name] += 1
    total = Counter(classes)
    parts = [part for part, share in enumerate(shares) if share > 0]
    held: list[Counter[str]] = [Counter() for _ in shares]
    dealt: dict[str, int] = {}
    for group in sorted(of_group, key=lambda name: (-of_group[name].total(), _hash_of_name(name))):
        counts = of_group[group]

        def filled(part: int, counts: Counter[str] = counts) -> tuple[float, float]:
            """Return how full a part would be with the group (mean over the group's videos), and how full it is now."""
            each = ((held[part][name] + count) / (shares[part] * total[name]) * count for name, count in counts.items())
            return round(sum(each) / counts.total(), 9), held[part].total() / shares[part]

        dealt[group] = min(parts, key=filled)
        held[dealt[group]] += counts
    return [dealt[group] for group in groups]


def _hash_of_name(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()

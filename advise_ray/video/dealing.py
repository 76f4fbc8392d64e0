"""Dealing videos out to parts, such as a test split or the folds of a cross-validation, in whole groups."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence


def deal(classes: Sequence[str], groups: Sequence[str], shares: Sequence[float]) -> list[int]:
    """The part of each video, from 0: groups stay whole, and every class is in each part by its share.

    The large groups come first, then in an order by lot that follows from their names alone; each goes where its
    classes lack most, and among such parts where most is lacking at all.

    Args:
        classes: of each video.
        groups: of each video: a recording, a person.
        shares: of the parts; a part without one gets nothing.
    """
    of_group: dict[str, Counter[str]] = {}
    for name, group in zip(classes, groups, strict=True):
        of_group.setdefault(group, Counter())[name] += 1
    total = Counter(classes)
    parts = [part for part, share in enumerate(shares) if share > 0]
    held: list[Counter[str]] = [Counter() for _ in shares]
    dealt: dict[str, int] = {}
    for group in sorted(of_group, key=lambda name: (-of_group[name].total(), _lot(name))):
        counts = of_group[group]

        def filled(part: int, counts: Counter[str] = counts) -> tuple[float, float]:
            """How full a part would be with the group, in the mean over the group's videos; and how full it is."""
            each = ((held[part][name] + count) / (shares[part] * total[name]) * count for name, count in counts.items())
            return round(sum(each) / counts.total(), 9), held[part].total() / shares[part]

        dealt[group] = min(parts, key=filled)
        held[dealt[group]] += counts
    return [dealt[group] for group in groups]


def _lot(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()

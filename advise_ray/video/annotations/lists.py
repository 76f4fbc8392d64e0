"""Reads plain lists of paths and labels, in the usual formats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from advise_ray.errors import UsageError
from advise_ray.video.annotations.files import Files, checked
from advise_ray.video.annotations.forms import SPLIT_NAMES, Form, form_of
from advise_ray.video.annotations.listing import ListedVideo, Listing, lines

SUFFIXES = (".txt", ".csv", ".tsv", ".lst", ".list")
NO_LABEL = ("nan", "none", "null", "n/a", "na")
"""What tables have in place of a missing number."""


def read_list(videos: str | Path, annotations: Path, split: int | None = None) -> Listing:
    """Read lists with lines `path label`: one file, or a folder of `*train*`, `*val*`, `*test*` files.

    The separator is white space, a comma, a semicolon, a tab or a vertical bar. Fields may be quoted. A header may name
    the columns path, label and split, in any order. Without a header, a line is a path and a label, or only a path.
    Paths are absolute, or relative to the folder of the videos. Labels are numbers or names; -1 means no label.

    Args:
        split: If a folder has the lists of several splits: the number in the names of the lists to read.

    Raises:
        UsageError: A folder has several lists for one split, or a list is missing or invalid.
    """
    files = Files(videos)
    listing = Listing([])
    for list_file, split_name in _list_files(annotations, split, listing):
        numbered = [(number, line) for number, line in lines(list_file, "the list") if not _is_blank(line)]
        form = form_of([line for _, line in numbered], files, list_file)
        for number, line in numbered[form.header_lines :]:
            _add_line(line, form, split_name, listing, files, f"{list_file}:{number}")
    _number_labels(listing)
    return checked(listing, files)


def _is_blank(line: str) -> bool:
    """Return whether a line has no fields: only separators, or Excel's `sep=;`."""
    return not line.strip(",;|\t ") or re.fullmatch("sep=.", line, re.IGNORECASE) is not None


def _add_line(line: str, form: Form, split_name: str, listing: Listing, files: Files, where: str) -> None:
    if line.startswith("#") and form.path_in(line, files) is None:
        return
    try:
        path, label, own_split = form.read(line, files)
    except ValueError as error:
        listing.problems[where] = f"{line!r}: {error}"
        return
    if not path:
        listing.problems[where] = f"{line!r}: no path"
        return
    if own_split is not None:
        if own_split.lower() not in SPLIT_NAMES:
            listing.problems[where] = f"{line!r}: unknown split {own_split!r}; use train, val or test"
            return
        split_name = SPLIT_NAMES[own_split.lower()]
    files.place(ListedVideo(path, label or None, split_name), listing, where)


def _number_labels(listing: Listing) -> None:
    """Sort the classes. Labels that are whole numbers are sorted by value: `3`, `03`, `+3` and `3.0` are one label."""
    # Classes of missing videos count too, so that a class keeps its number when the rest is downloaded later.
    names = {video.class_name for video in (*listing.found, *listing.missing) if video.class_name is not None}
    numbers = {
        name: int(Decimal(name)) for name in names if re.fullmatch(r"[-+]?[0-9]+(\.0*)?(e\+?[0-9])?", name, re.I)
    }
    unlabelled = {name for name in names if numbers and name.lower() in NO_LABEL}
    words = names - numbers.keys() - unlabelled
    if words:
        listing.classes = sorted(names)
        if numbers:
            listing.notes.append(
                f"labels are both numbers ({len(numbers)}) and names ({len(names) - len(numbers)}, such as "
                f"{min(words)!r}); all are used as names, in alphabetical order"
            )
        return
    unlabelled |= {name for name, number in numbers.items() if number < 0}
    texts = {name: str(number) for name, number in numbers.items() if name not in unlabelled}
    for videos in (listing.found, listing.missing):
        videos[:] = [replace(video, class_name=texts.get(video.class_name or "")) for video in videos]
    listing.classes = sorted(set(texts.values()), key=int)
    if unlabelled:
        listing.notes.append(f"videos with the label {', '.join(sorted(unlabelled))} are used without a label")


def _list_files(annotations: Path, split: int | None, listing: Listing) -> list[tuple[Path, str]]:
    """Return the lists and their splits. Adds a note about lists that are not used."""
    if annotations.is_file():
        return [(annotations, _split_in_name(annotations) or "train")]
    if not annotations.is_dir():
        raise UsageError(f"--annotations: {annotations} does not exist")
    there = sorted(annotations.iterdir())
    every = [path for path in there if path.suffix.lower() in SUFFIXES]
    named = [(path, split_name) for path in every if (split_name := _split_in_name(path)) is not None]
    if len(every) == 1 and not named:  # a column may contain the splits
        return [(every[0], "train")]
    if not named:
        known, some = ", ".join(SUFFIXES), ", ".join([path.name for path in there][:3]) or "no files"
        raise UsageError(
            f"--annotations: no list ({known}) in {annotations} has a name with the word train, val or test; it has "
            f"{some}; give one file, or rename the lists"
        )
    if ignored := [path.name for path in every if _split_in_name(path) is None]:
        listing.notes.append(f"not used, because their names have no train, val or test: {', '.join(ignored[:5])}")
    if split is not None:
        numbers = _numbers([path for path, _ in named])
        named = [each for each in named if split in numbers[each[0]]]
        if not named:
            raise UsageError(f"--split: no list in {annotations} has {split} in its name")
    _refuse_several(named)
    return named


def _refuse_several(named: Sequence[tuple[Path, str]]) -> None:
    """Raise UsageError if a split has several lists: one may test on videos that another trains on."""
    several = sorted(named, key=lambda each: each[1])
    for (first, split_name), (second, other) in pairwise(several):
        if split_name != other:
            continue
        numbers = _numbers([path for path, _ in named])
        choices = sorted(set().union(*numbers.values()))
        how = f"choose with --split {' or '.join(map(str, choices))}" if len(choices) > 1 else "remove the others"
        raise UsageError(
            f"--annotations: several lists for {split_name}: {first.name}, {second.name}; {how}, or give one file"
        )


def _numbers(paths: Iterable[Path]) -> dict[Path, set[int]]:
    """Map each list to the numbers in its name that differ, such as 1 in `ucf101_train_split_1_videos.txt`."""
    numbers = {path: set(map(int, re.findall(r"\d+", path.stem))) for path in paths}
    shared = set.intersection(*numbers.values())
    return {path: found - shared for path, found in numbers.items()}


def _split_in_name(path: Path) -> str | None:
    words = path.stem.lower().replace("-", "_").split("_")
    for name, split_name in SPLIT_NAMES.items():
        if any(word.startswith(name) for word in words):
            return split_name
    return None

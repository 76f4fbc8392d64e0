"""Readers of the lists that data sets are published with: which videos there are, their labels and splits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from advise_ray.errors import UsageError

VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv".split()  # noqa: SIM905
)
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class ListedVideo:
    """One line of a list. `path` is relative to the videos' root, with `/`; label and split may be unknown."""

    path: str
    class_name: str | None = None
    split: str | None = None


@dataclass
class Listing:
    """What a data set's lists say, checked against the files that are there."""

    classes: list[str]
    """Class names in the order of their labels."""
    found: list[ListedVideo] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Listed paths without a file."""
    problems: dict[str, str] = field(default_factory=dict)
    """`file:line` → what is wrong with that line of a list."""


def read_folder(videos: Path) -> Listing:
    """`root/<class>/<video>`, `root/<split>/<class>/<video>`, `root/<split>/<video>`, or any tree without labels."""
    paths = sorted(_video_files(videos))
    if not paths:
        raise UsageError(f"{videos}: no video files found (looked for {', '.join(sorted(VIDEO_SUFFIXES))})")
    parts = [path.split("/") for path in paths]
    if all(len(p) == 3 and p[0].lower() in SPLIT_NAMES for p in parts):
        return _labelled([ListedVideo("/".join(p), p[1], SPLIT_NAMES[p[0].lower()]) for p in parts])
    if all(len(p) == 2 and p[0].lower() in SPLIT_NAMES for p in parts):
        return Listing([], [ListedVideo("/".join(p), None, SPLIT_NAMES[p[0].lower()]) for p in parts])
    if all(len(p) == 2 for p in parts):
        return _labelled([ListedVideo("/".join(p), p[0]) for p in parts])
    return Listing([], [ListedVideo(path) for path in paths])


def _labelled(found: list[ListedVideo]) -> Listing:
    return Listing(sorted({video.class_name for video in found if video.class_name is not None}), found)


def read_ucf101(videos: Path, annotations: Path, split: int) -> Listing:
    """UCF101's `classInd.txt`, `trainlist0N.txt` (path and label) and `testlist0N.txt` (path alone).

    Class numbers start at 1 in the files; the class of a video is the folder in its path.
    """
    classes = [line.split(maxsplit=1) for _, line in _lines(annotations / "classInd.txt", "the class list")]
    names = [parts[1] for parts in classes if len(parts) == 2]
    listing = Listing(names)
    files = _Files(videos)
    for split_name in ("train", "test"):
        list_file = annotations / f"{split_name}list{split:02d}.txt"
        for number, line in _lines(list_file, f"the {split_name} list of split {split}"):
            path, _, label = line.partition(" ") if split_name == "train" else (line, "", "")
            class_name, where = path.split("/")[0], f"{list_file}:{number}"
            if class_name not in names:
                listing.problems[where] = f"{line!r}: class {class_name!r} is not in classInd.txt"
            elif label and [label.strip(), class_name] not in classes:
                listing.problems[where] = f"{line!r}: label and folder name different classes"
            else:
                files.place(ListedVideo(path, class_name, split_name), listing, where)
    return _checked(listing, videos)


def read_list(videos: Path, annotations: Path) -> Listing:
    """Plain lists of `path label` lines, one file or a folder of `*train*`, `*val*`, `*test*` `.txt`/`.csv` files.

    The separator is white space or a comma; the label is the last field, a number or a name; a line that is a path
    alone has no label.
    """
    files = _Files(videos)
    listing = Listing([])
    for list_file, split_name in _list_files(annotations):
        for number, line in _lines(list_file, "the list"):
            path, label = _split_label(line, files)
            files.place(ListedVideo(path, label, split_name), listing, f"{list_file}:{number}")
    listing.classes = _in_label_order({video.class_name for video in listing.found if video.class_name is not None})
    return _checked(listing, videos)


def _in_label_order(names: set[str]) -> list[str]:
    """Numbers by value, names by alphabet."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _split_label(line: str, files: _Files) -> tuple[str, str | None]:
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


class _Files:
    """The video files under a root, found by the listed path, whatever its suffix."""

    def __init__(self, videos: Path) -> None:
        self.paths = set(_video_files(videos))
        self.by_stem = {path.rsplit(".", 1)[0]: path for path in sorted(self.paths, reverse=True)}
        self.placed: dict[str, str] = {}

    def find(self, listed: str) -> str | None:
        """The file for a listed path: the path itself, else the same name with another video suffix."""
        listed = listed.removeprefix("./")
        stem, suffix = os.path.splitext(listed)  # noqa: PTH122
        same_name = stem if suffix.lower() in VIDEO_SUFFIXES else listed
        return listed if listed in self.paths else self.by_stem.get(same_name)

    def place(self, video: ListedVideo, listing: Listing, where: str) -> None:
        """Add a listed video to `found` or `missing`; one that leaves the root or was listed before is a problem."""
        if video.path.startswith("/") or ".." in video.path.split("/"):
            listing.problems[where] = f"{video.path!r} leaves the folder of the videos"
        elif (path := self.find(video.path)) is None:
            listing.missing.append(video.path)
        elif path in self.placed:
            listing.problems[where] = f"{video.path!r} was listed before, at {self.placed[path]}"
        else:
            self.placed[path] = where
            listing.found.append(ListedVideo(path, video.class_name, video.split))


def _checked(listing: Listing, videos: Path) -> Listing:
    if not listing.found:
        example = f", such as {listing.missing[0]}" if listing.missing else ""
        unreadable = "".join(f"; {where}: {what}" for where, what in list(listing.problems.items())[:1])
        raise UsageError(
            f"--videos: none of the {len(listing.missing)} listed videos{example} is in {videos}{unreadable}"
        )
    return listing


def _lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    """Line numbers and lines, without line ends, surrounding space and empty lines."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"--annotations: cannot read {what}, {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--annotations: {path} is not a text file") from None
    return ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def _video_files(root: Path) -> Iterator[str]:
    if not root.is_dir():
        raise UsageError(f"--videos: {root} is not a folder")
    entered = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:  # a link that leads back up
            folders.clear()
            continue
        entered.add(real)
        for name in names:
            if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith("."):  # noqa: PTH122
                yield (Path(folder) / name).relative_to(root).as_posix()

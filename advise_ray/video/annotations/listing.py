"""What the lists of a data set say, checked against the files that are there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from advise_ray.errors import UsageError
from advise_ray.video import storage
from advise_ray.video.storage import StoredFile

VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .m2ts .m2v .m4v .mkv .mov .mp4 "  # noqa: SIM905
    ".mpeg .mpg .mts .mxf .ogm .ogv .qt .rm .ts .vob .webm .wmv".split()
)
AUDIO_SUFFIXES = frozenset((".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav", ".wma"))
"""A folder's sounds are named among what was rejected: some took them for videos."""


@dataclass(frozen=True)
class ListedVideo:
    """One entry of a list. `path` is relative to the videos' root, with `/`; label and split may be unknown.

    `official_splits` has the splits of all of a benchmark's official ones, the first one first, where it has several.
    `group` names what is held out together.
    `start_frame` and `end_frame` (the first one after) are set where only that part of the file belongs to the label.
    """

    path: str
    class_name: str | None = None
    split: str | None = None
    start_frame: int | None = None
    end_frame: int | None = None
    official_splits: tuple[str | None, ...] | None = None
    group: str | None = None


@dataclass
class Listing:
    """What a data set's lists say, checked against the files that are there."""

    classes: list[str]
    """Class names in the order of their labels."""
    found: list[ListedVideo] = field(default_factory=list)
    missing: list[ListedVideo] = field(default_factory=list)
    """Listed videos without a file."""
    problems: dict[str, str] = field(default_factory=dict)
    """`file:line` (of JSON: `file:entry`) → what is wrong with it."""
    stored: dict[str, StoredFile] = field(default_factory=dict)
    """Path → the file."""
    other_files: dict[str, int] = field(default_factory=dict)
    """Of a folder: how many files of each suffix were passed over as no videos."""


class Files:
    """The video files under a root, found by the listed path, whatever its suffix."""

    def __init__(self, videos: str | Path) -> None:
        self.root = str(videos)
        every = list(storage.list_files(self.root))
        listed = [file for file in every if _is_video(file.path)]
        self.stored = {file.path: file for file in listed if _is_utf8(file.path)}
        self.others = {file.path: file for file in every if _is_utf8(file.path) and not _is_video(file.path)}
        self.unnameable = [ascii(file.path) for file in listed if file.path not in self.stored]
        self.by_stem = {path.rsplit(".", 1)[0]: path for path in sorted(self.stored, reverse=True)}
        self.by_name: dict[str, list[str]] = {}
        for stem in sorted(self.by_stem):
            self.by_name.setdefault(stem.rsplit("/", 1)[-1], []).append(self.by_stem[stem])
        self.placed: dict[str, str] = {}

    def find(self, listed: str) -> str | None:
        """The file for a listed path: the path itself, else the same name with another video suffix."""
        listed = listed.removeprefix("./")
        if listed in self.stored:
            return listed
        return self.by_stem.get(_without_suffix(listed)) or (listed if listed in self.others else None)

    def place(self, video: ListedVideo, listing: Listing, where: str, *, any_folder: bool = False) -> None:
        """Add a listed video to `found` or `missing`; one that leaves the root or was listed before is a problem.

        Args:
            any_folder: the list gives no folder, or people arrange them as they like: the name alone tells the file.
        """
        path = self.find(video.path)
        if path is None and any_folder:
            named = self.by_name.get(_without_suffix(video.path).rsplit("/", 1)[-1], [])
            if len(named) > 1:
                listing.problems[where] = f"{video.path!r} is in several folders: {', '.join(named[:3])}"
                return
            path = named[0] if named else None
        if video.path.startswith("/") or ".." in video.path.split("/"):
            listing.problems[where] = f"{video.path!r} leaves the folder of the videos"
        elif path is None:
            listing.missing.append(video)
        elif path in self.placed:
            listing.problems[where] = f"{video.path!r} was listed before, at {self.placed[path]}"
        else:
            self.placed[path] = where
            listing.found.append(replace(video, path=path))


def _is_utf8(path: str) -> bool:
    """Others come from Python with stand-ins for their bytes, which neither Parquet nor JSON can hold."""
    return not any("\ud800" <= letter <= "\udfff" for letter in path)


def _is_video(path: str) -> bool:
    return suffix_of(path) in VIDEO_SUFFIXES and not path.rsplit("/", 1)[-1].startswith(".")


def suffix_of(path: str) -> str:
    """`.mp4` of `a/b.MP4`."""
    return os.path.splitext(path.rsplit("/", 1)[-1])[1].lower()  # noqa: PTH122


def _without_suffix(listed: str) -> str:
    stem, suffix = os.path.splitext(listed)  # noqa: PTH122
    return stem if suffix.lower() in VIDEO_SUFFIXES else listed


def checked(listing: Listing, files: Files) -> Listing:
    """The listing with its files, or UsageError where nothing of what it lists is there."""
    listing.stored = files.stored | files.others
    for name in files.unnameable:
        listing.problems[name] = "the file's name is not UTF-8; rename it"
    if not listing.found:
        example = f", such as {listing.missing[0].path}" if listing.missing else ""
        unreadable = "".join(f"; {where}: {what}" for where, what in list(listing.problems.items())[:1])
        raise UsageError(
            f"--videos: none of the {len(listing.missing)} listed videos{example} is in {files.root}{unreadable}"
        )
    return listing


def read_text(path: Path, what: str) -> str:
    """A list as text, without a byte order mark.

    Raises:
        UsageError: it cannot be read, or is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"--annotations: cannot read {what}, {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--annotations: {path} is not a text file") from None


def lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    """Line numbers and lines, without line ends, surrounding space and empty lines."""
    text = read_text(path, what)
    return ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def read_json(path: Path, what: str, kind: type) -> Any:
    """A JSON list or object.

    Raises:
        UsageError: it cannot be read, is not JSON, or another kind of value.
    """
    try:
        value = json.loads(read_text(path, what))
    except json.JSONDecodeError as error:
        raise UsageError(f"--annotations: {path}:{error.lineno} is not JSON: {error.msg}") from None
    if not isinstance(value, kind):
        raise UsageError(f"--annotations: {path} holds no JSON {'list' if kind is list else 'object'} for {what}")
    return value

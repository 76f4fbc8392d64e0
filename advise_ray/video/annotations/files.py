"""The files under a root, and which of them a list means: people move, rename and recode their videos."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from advise_ray.errors import UsageError
from advise_ray.video import storage
from advise_ray.video.annotations.fitting import suggest
from advise_ray.video.annotations.listing import ListedVideo, Listing

VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .m2ts .m2v .m4v .mkv .mov .mp4 "  # noqa: SIM905
    ".mpeg .mpg .mts .mxf .ogm .ogv .qt .rm .ts .vob .webm .wmv".split()
)


class Files:
    """The video files under a root, found by the listed path, whatever its suffix."""

    def __init__(self, videos: str | Path) -> None:
        self.root = str(videos)
        every = list(storage.list_files(self.root))
        listed = [file for file in every if is_video(file.path)]
        self.stored = {file.path: file for file in listed if _is_utf8(file.path)}
        self.others = {file.path: file for file in every if _is_utf8(file.path) and not is_video(file.path)}
        self.unnameable = [ascii(file.path) for file in listed if file.path not in self.stored]
        self.by_stem = {path.rsplit(".", 1)[0]: path for path in sorted(self.stored, reverse=True)}
        self.by_name: dict[str, list[str]] = {}
        for stem in sorted(self.by_stem):
            self.by_name.setdefault(stem.rsplit("/", 1)[-1], []).append(self.by_stem[stem])
        self.placed: dict[str, str] = {}
        self.unplaced: list[str] = []
        """Listed paths without a file."""

    def relative(self, listed: str) -> str | None:
        """A listed path as it is below the root, with `/`; None where it leaves the root.

        It may be absolute, a URL, with Windows' `\\`, `~`, `.` or `..`.
        """
        if listed in self.stored:
            return listed
        if storage.is_url(self.root):
            root = self.root.partition("?")[0].rstrip("/") + "/"
            if storage.is_url(listed):
                return unquote(listed.removeprefix(root)) if listed.startswith(root) else None
        path = os.path.expanduser(listed.removeprefix("file://").replace("\\", "/"))  # noqa: PTH111
        if path.startswith("/"):
            if storage.is_url(self.root):
                return None
            path = os.path.relpath(path, self.root)
            if path.startswith(".."):  # the root may be a link, or the list name where a link leads
                path = os.path.relpath(_real(listed), _real_folder(self.root))
        path = os.path.normpath(path)
        return None if path.split("/")[0] in ("..", ".") else path

    def find(self, listed: str) -> str | None:
        """The file for a listed path: the path itself, else the same name with another video suffix."""
        path = self.relative(listed)
        if path is None or path in self.stored:
            return path
        return self.by_stem.get(without_suffix(path)) or (path if path in self.others else None)

    def place(self, video: ListedVideo, listing: Listing, where: str, *, any_folder: bool = False) -> None:
        """Add a listed video to `found` or `missing`; one that leaves the root or was listed before is a problem.

        Args:
            any_folder: the list gives no folder, or people arrange them as they like: the name alone tells the file.
        """
        path = self.find(video.path)
        if path is None and any_folder:
            named = self.by_name.get(without_suffix(video.path).rsplit("/", 1)[-1], [])
            if len(named) > 1:
                listing.problems[where] = f"{video.path!r} is in several folders: {', '.join(named[:3])}"
                return
            path = named[0] if named else None
        below = self.relative(video.path)
        if below is None:
            listing.problems[where] = f"{video.path!r} leaves the folder of the videos"
            self.unplaced.append(video.path)
        elif path is None:
            listing.missing.append(replace(video, path=below))
            self.unplaced.append(video.path)
        elif path in self.placed:
            listing.problems[where] = f"{video.path!r} was listed before, at {self.placed[path]}"
        else:
            self.placed[path] = where
            listing.found.append(replace(video, path=path))


def checked(listing: Listing, files: Files) -> Listing:
    """The listing with its files, or UsageError where nothing of what it lists is there."""
    listing.stored = files.stored | files.others
    for name in files.unnameable:
        listing.problems[name] = "the file's name is not UTF-8; rename it"
    lost, num_found = files.unplaced, len(listing.found)
    if len(lost) > num_found:
        count = f"{'none' if not num_found else f'only {num_found}'} of the {len(lost) + num_found}"
        told = f"{count} listed videos, such as {lost[0]}, {'is' if num_found < 2 else 'are'} in {files.root}"
        told += f"; {suggest(lost, files.root, sorted(files.stored))}"
        if not num_found:
            raise UsageError(f"--videos: {told}")
        listing.notes.append(told)
    if not num_found:
        first = next(iter(listing.problems.items()), ("the lists", "name no videos"))
        raise UsageError(f"--annotations: no line can be used; {first[0]}: {first[1]}")
    return listing


def is_video(path: str) -> bool:
    """By its name."""
    return suffix_of(path) in VIDEO_SUFFIXES and not path.rsplit("/", 1)[-1].startswith(".")


def suffix_of(path: str) -> str:
    """`.mp4` of `a/b.MP4`."""
    return os.path.splitext(path.rsplit("/", 1)[-1])[1].lower()  # noqa: PTH122


def without_suffix(listed: str) -> str:
    """A listed path without its suffix, where that is a video's."""
    stem, suffix = os.path.splitext(listed)  # noqa: PTH122
    return stem if suffix.lower() in VIDEO_SUFFIXES else listed


def _is_utf8(path: str) -> bool:
    """Others come from Python with stand-ins for their bytes, which neither Parquet nor JSON can hold."""
    return not any("\ud800" <= letter <= "\udfff" for letter in path)


def _real(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(_real_folder(folder), name)  # noqa: PTH118 (200,000 lines)


@functools.lru_cache(maxsize=1 << 16)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)

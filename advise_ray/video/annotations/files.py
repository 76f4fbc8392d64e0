"""Finds the files that lists name, also if users have moved the videos or converted them to another format."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from advise_ray.errors import UsageError
from advise_ray.storage import remote
from advise_ray.storage.transports import StoredFile
from advise_ray.video.annotations.fitting import note_of_alike, suggest
from advise_ray.video.annotations.listing import ListedVideo, Listing

VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .m2ts .m2v .m4v .mkv .mov .mp4 "  # noqa: SIM905
    ".mpeg .mpg .mts .mxf .ogm .ogv .qt .rm .ts .vob .webm .wmv".split()
)


KINDS = {
    "sounds": (".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav", ".wma"),
    "pictures": (".bmp", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
    "texts": (
        ".ass",
        ".csv",
        ".html",
        ".json",
        ".jsonl",
        ".md",
        ".pdf",
        ".srt",
        ".tsv",
        ".txt",
        ".vtt",
        ".xml",
        ".yaml",
    ),
    "archives": (".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip"),
    "unfinished downloads": (".aria2", ".crdownload", ".download", ".part", ".partial", ".ytdl"),
    "tables": (".arrow", ".h5", ".hdf5", ".npy", ".npz", ".parquet", ".pkl", ".tfrecord"),
}
"""Kinds of files that are not videos, by suffix."""
SYSTEM_FOLDERS = (
    *("#recycle", "#snapshot", "$RECYCLE.BIN", "@Recycle", "@eaDir", "FOUND.000", "System Volume Information"),
    *("__MACOSX", "lost+found"),
)


class Files:
    """The video files below a root folder. `find` finds a file by its listed path, with any video suffix.

    Hidden files and folders, and those of operating systems, are left out. The root may also be a single file.
    """

    def __init__(self, videos: str | Path) -> None:
        self.root, only = root_and_file(str(videos))
        self.unreadable: dict[str, str] = {}
        every = [_single(self.root, only)] if only else list(remote.list_files(self.root, self.unreadable))
        self.hidden = {file.path: file for file in every if _is_hidden(file.path) and not only}
        every = [file for file in every if file.path not in self.hidden]
        listed = [file for file in every if is_video(file.path) or file.path == only]
        self.stored = {file.path: file for file in listed if _is_utf8(file.path)}
        self.unnameable = [ascii(file.path) for file in listed if file.path not in self.stored]
        self.others = {file.path: file for file in every if _is_utf8(file.path) and file.path not in self.stored}
        self.by_stem = {path.rsplit(".", 1)[0]: path for path in sorted(self.stored, reverse=True)}
        self.by_name: dict[str, list[str]] = {}
        for stem in sorted(self.by_stem):
            self.by_name.setdefault(stem.rsplit("/", 1)[-1], []).append(self.by_stem[stem])
        self.placed: dict[str, tuple[str, str | None]] = {}
        """Maps the path of each video that a list has named to the place in the list, and to its class."""
        self.unplaced: list[str] = []
        """Listed paths whose file does not exist."""

    def relative(self, listed: str) -> str | None:
        """Return a listed path relative to the root, with `/`, or None if it is outside the root.

        The listed path may be absolute, a URL, or contain Windows' `\\`, `~`, `.` or `..`.
        """
        if listed in self.stored:
            return listed
        if remote.is_url(self.root):
            root = self.root.partition("?")[0].rstrip("/") + "/"
            if remote.is_url(listed):
                return unquote(listed.removeprefix(root)) if listed.startswith(root) else None
        if listed.startswith("file://"):
            listed = unquote(listed.removeprefix("file://"))
        path = os.path.expanduser(listed.replace("\\", "/"))  # noqa: PTH111
        if path.startswith("/"):
            if remote.is_url(self.root):
                return None
            path = os.path.relpath(path, self.root)
            if path.startswith(".."):  # the root may be a link, or the list may have the target of a link
                path = os.path.relpath(_real(listed), _real_folder(self.root))
        path = os.path.normpath(path)
        return None if path.split("/")[0] in ("..", ".") else path

    def find(self, listed: str) -> str | None:
        """Return the file for a listed path: the path itself, or else the same path with another video suffix."""
        path = self.relative(listed)
        if path is None or path in self.stored:
            return path
        return self.by_stem.get(without_suffix(path)) or (path if path in self.others or path in self.hidden else None)

    def place(self, video: ListedVideo, listing: Listing, where: str, *, any_folder: bool = False) -> None:
        """Add a listed video to `found` or `missing`, or to `problems` if it is outside the root or a duplicate.

        Args:
            any_folder: Find the file by its name in any folder, because the list has no folders or users arrange them
                differently.
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
            listing.problems[where] = f"{video.path!r} is outside the folder of the videos"
            self.unplaced.append(video.path)
        elif path is None:
            listing.missing.append(replace(video, path=below))
            self.unplaced.append(video.path)
        elif path in self.placed:
            first, class_name = self.placed[path]
            other = f" with another label ({video.class_name}, not {class_name})"
            differs = other if class_name != video.class_name else ""
            listing.problems[where] = f"{video.path!r} is a duplicate of {first}{differs}"
        else:
            self.placed[path] = where, video.class_name
            listing.found.append(replace(video, path=path))


def checked(listing: Listing, files: Files) -> Listing:
    """Complete a listing with its files and notes, and return it.

    Raises:
        UsageError: None of the listed videos exists.
    """
    listing.stored = files.stored | files.others | files.hidden
    listing.skipped |= files.unreadable
    listing.skipped |= dict.fromkeys(files.unnameable, "the file's name is not UTF-8; rename it")
    if files.unreadable:
        path, why = next(iter(files.unreadable.items()))
        others = len(files.unreadable) - 1
        and_others = f", and {others} other{'s' if others > 1 else ''}" if others else ""
        listing.notes.append(f"skipped {path} ({why}){and_others}")
    if hidden := [path for path in files.hidden if is_video(path) and path not in files.placed]:
        tops = sorted(set(map(_hidden_part, hidden)))
        message = f"{', '.join(tops[:3])}{', …' if len(tops) > 3 else ''}"
        count = "1 video that is" if len(hidden) == 1 else f"{len(hidden)} videos that are"
        listing.notes.append(f"skipped {count} hidden or in a system folder: {message}")
    listing.notes += note_of_alike(listing.classes)
    lost, num_found = files.unplaced, len(listing.found)
    if len(lost) > num_found:
        count = f"{'none' if not num_found else f'only {num_found}'} of the {len(lost) + num_found}"
        message = f"{count} listed videos {'is' if num_found < 2 else 'are'} in {files.root} (missing: {lost[0]}, …)"
        message += f"; {suggest(lost, files.root, sorted(files.stored))}"
        if not num_found:
            raise UsageError(f"--videos: {message}")
        listing.notes.append(message)
    if not num_found:
        where, what = next(iter((listing.problems | listing.skipped).items()), ("the lists", "no entries"))
        raise UsageError(f"--videos, --annotations: found no usable video; {where}: {what}")
    return listing


def root_and_file(videos: str) -> tuple[str, str | None]:
    """Split `videos` into a folder and, if it is a single file, the file's name.

    Raises:
        UsageError: The file is not a video.
    """
    if remote.is_url(videos):
        folder, _, name = videos.partition("?")[0].rpartition("/")
        is_file = is_video(name) and not folder.endswith(":/")
    else:
        folder, name = os.path.split(videos)
        is_file = Path(videos).is_file()
    if not is_file:
        return videos, None
    if (kind := kind_of(name)) and not is_video(name) and suffix_of(name) not in kind.split(" ")[0]:
        how = "use data.manifest for a manifest" if suffix_of(name) == ".parquet" else "use `data index` for lists"
        raise UsageError(f"--videos: {videos} is not a video but one of {kind}; give a folder or a video ({how})")
    return folder + (f"?{videos.partition('?')[2]}" if "?" in videos else ""), unquote(name)


def kind_of(path: str) -> str:
    """Return the kind of a file that is not a video, by its suffix, such as `texts (.txt)`."""
    suffix = suffix_of(path)
    kind = next((kind for kind, suffixes in KINDS.items() if suffix in suffixes), None)
    return f"{kind} ({suffix})" if kind else suffix or "without a suffix"


def is_video(path: str) -> bool:
    """Return whether a file is a video, by its suffix."""
    return suffix_of(path) in VIDEO_SUFFIXES


def _is_hidden(path: str) -> bool:
    return _hidden_part(path) != ""


def _hidden_part(path: str) -> str:
    """Return the path up to the first file or folder that is hidden or of the operating system, or an empty text."""
    parts = path.split("/")
    hidden = (place for place, part in enumerate(parts, 1) if part.startswith(".") or part in SYSTEM_FOLDERS)
    return "/".join(parts[: next(hidden, 0)])


def _single(root: str, name: str) -> StoredFile:
    if remote.is_url(root):
        return StoredFile(name)
    status = Path(root, name).stat()
    return StoredFile(name, status.st_size, status.st_mtime_ns)


def suffix_of(path: str) -> str:
    """Return the suffix in lower case: `.mp4` for `a/b.MP4`."""
    return os.path.splitext(path.rsplit("/", 1)[-1])[1].lower()  # noqa: PTH122


def without_suffix(listed: str) -> str:
    """Return a listed path without its suffix, if it is a video suffix."""
    stem, suffix = os.path.splitext(listed)  # noqa: PTH122
    return stem if suffix.lower() in VIDEO_SUFFIXES else listed


def _is_utf8(path: str) -> bool:
    """Return whether a path is UTF-8. Python reads other bytes as surrogates, which Parquet and JSON cannot store."""
    return not any("\ud800" <= letter <= "\udfff" for letter in path)


def _real(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(_real_folder(folder), name)  # noqa: PTH118 (faster for long lists)


@functools.lru_cache(maxsize=1 << 16)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)

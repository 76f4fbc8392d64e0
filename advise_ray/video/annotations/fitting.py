"""Explains why listed paths do not exist, by comparing their ends with the ends of existing paths."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

MOST_LOOKED_AT = 500


def suggest(listed: Sequence[str], root: str, there: Sequence[str]) -> str:
    """Return a sentence that says how to make most of the listed paths valid.

    Args:
        listed: Paths as they are in the lists. None of them exists in `root`.
        root: Folder of the videos.
        there: Paths of the existing videos, relative to `root`.
    """
    if not there:
        return "this folder has no videos"
    files = {_stem(path): path for path in there}
    alike = {_plain(stem): path for stem, path in files.items()}
    by_name: dict[str, list[str]] = {}
    for stem, path in files.items():
        by_name.setdefault(_plain(stem).rsplit("/", 1)[-1], []).append(path)
    step = max(1, len(listed) // MOST_LOOKED_AT)
    found = [_differs(path, files, alike, by_name) for path in listed[::step]]
    reasons = Counter(each for each in found if each is not None)
    if not reasons:
        videos = "1 other video" if len(there) == 1 else f"{len(there)} other videos, such as"
        return f"no file in this folder has such a name; it has {videos} {there[0]}"
    (kind, part), count = reasons.most_common(1)[0]
    if kind == "alike":
        return f"the folder has {part}: capitals, spaces, dashes or underscores differ"
    if kind == "elsewhere":
        return f"a file with that name is {part}: change the paths in the lists"
    several = len(reasons) > 1 and 2 * count <= sum(reasons.values())
    if kind == "below":
        deeper = f"{root.rstrip('/')}/{part}"
        several_folders = f"they are in folders such as {deeper}: add the folders to the paths in the lists"
        return several_folders if several else f"use --videos {deeper}"
    if several:
        return f"they exist without leading folders such as {part!r}: remove these from the paths in the lists"
    folder = f"{root.rstrip('/')}/"
    if folder.endswith(f"/{part}"):
        return f"use --videos {folder.removesuffix(part).rstrip('/') or '/'}"
    return f"they exist without the leading {part!r}: remove it from the paths in the lists"


def note_of_alike(classes: Sequence[str]) -> list[str]:
    """Return a note about classes that are probably one class, such as `Run` and `run`."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(_plain(name), []).append(name)
    pairs = [" and ".join(map(repr, names[:2])) for names in alike.values() if len(names) > 1]
    if not pairs:
        return []
    return [f"classes whose names differ only in capitals, spaces or accents are separate: {', '.join(pairs[:3])}"]


def _differs(
    listed: str, files: Mapping[str, str], alike: Mapping[str, str], by_name: Mapping[str, Sequence[str]]
) -> tuple[str, str] | None:
    """Return how a listed path differs from a file, or None.

    The result is `prefix` with the extra prefix, `below` with the missing folder, or `alike` or `elsewhere` with the
    file.
    """
    path = listed.replace("\\", "/")
    stem = _stem(path)
    cuts = [match.end() for match in re.finditer("/+", stem)]
    for cut in cuts:
        if stem[cut:] in files:
            return "prefix", path[:cut]
    for cut in (0, *cuts):
        if (file := alike.get(_plain(stem[cut:]))) is not None:
            return "alike", file
    named = by_name.get(_plain(stem).rsplit("/", 1)[-1], ())
    if len(named) != 1:
        return None
    (file,) = named
    if _stem(file).endswith(f"/{stem}"):
        return "below", _stem(file).removesuffix(f"/{stem}")
    return "elsewhere", file


def _stem(path: str) -> str:
    return re.sub(r"\.\w{2,4}$", "", path)


def _plain(text: str) -> str:
    """Return the text without differences in case, spaces, dashes and underscores, which often change in copies.

    Accented letters get one form: macOS writes file names with separate accents.
    """
    return re.sub(r"[\s_-]+", "_", unicodedata.normalize("NFC", text).casefold()).strip("_")

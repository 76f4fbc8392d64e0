"""Why listed paths are not there, told by the files that are: their tails agree, or almost."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

MOST_LOOKED_AT = 500


def suggest(listed: Sequence[str], root: str, there: Sequence[str]) -> str:
    """What would make most of the listed paths fit, in a sentence.

    Args:
        listed: paths as the lists have them, none of which is below `root`.
        root: of the videos.
        there: paths of the videos that are there, relative to it.
    """
    if not there:
        return "it has no videos"
    files = {_stem(path): path for path in there}
    alike = {_plain(stem): path for stem, path in files.items()}
    by_name: dict[str, list[str]] = {}
    for stem, path in files.items():
        by_name.setdefault(_plain(stem).rsplit("/", 1)[-1], []).append(path)
    step = max(1, len(listed) // MOST_LOOKED_AT)
    found = [_differs(path, files, alike, by_name) for path in listed[::step]]
    reasons = Counter(each for each in found if each is not None)
    if not reasons:
        return f"no file there has such a name; it has {len(there)} videos, such as {there[0]}"
    (kind, part), count = reasons.most_common(1)[0]
    if kind == "alike":
        return f"there it is {part}: capitals, spaces, dashes or underscores differ"
    if kind == "elsewhere":
        return f"a file of that name is {part}: list the paths as they are there"
    several = len(reasons) > 1 and 2 * count <= sum(reasons.values())
    if kind == "below":
        deeper = f"{root.rstrip('/')}/{part}"
        return f"they are in folders such as {deeper}: list those too" if several else f"give --videos {deeper}"
    if several:
        return f"they are there without the folders in front, such as {part!r}: take these off the lists"
    folder = f"{root.rstrip('/')}/"
    if folder.endswith(f"/{part}"):
        return f"give --videos {folder.removesuffix(part).rstrip('/') or '/'}"
    return f"without {part!r} in front they are there: take that off the lists"


def _differs(
    listed: str, files: Mapping[str, str], alike: Mapping[str, str], by_name: Mapping[str, Sequence[str]]
) -> tuple[str, str] | None:
    """In what: `prefix` (and which), `below` (which folder), `alike` or `elsewhere` (which file)."""
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
    """Without what people change when they move files."""
    return re.sub(r"[\s_-]+", "_", text.casefold())

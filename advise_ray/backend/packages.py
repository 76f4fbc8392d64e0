"""The packages that this one needs, at the versions that are installed here."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

NAME = "advise-ray"


def requirements(name: str = NAME, extras: frozenset[str] = frozenset()) -> list[Requirement]:
    """What a package needs here, without its extras but those that are named.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    every = map(Requirement, metadata.requires(name) or ())
    asked = [{"extra": extra} for extra in (extras or {""})]
    return [each for each in every if each.marker is None or any(map(each.marker.evaluate, asked))]


def release(name: str) -> str:
    """The version of a package as an index names it: a build of torch for CPUs alone is `2.14.1+cpu`.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return Version(metadata.version(name)).public


def constraints() -> list[str]:
    """`NAME==VERSION` of every package that this one needs, and that those need: a constraints file of pip's."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(NAME, frozenset[str]())]
    while waiting:
        name, extras = waiting.pop()
        for each in requirements(name, extras):
            key = (str(canonicalize_name(each.name)), frozenset(each.extras))
            if key not in seen:
                seen.add(key)
                found[key[0]] = release(each.name)
                waiting.append((each.name, key[1]))
    return [f"{name}=={version}" for name, version in sorted(found.items())]

"""The dependencies of this package, at their installed versions."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

NAME = "advise-ray"


def requirements(name: str = NAME, extras: frozenset[str] = frozenset()) -> list[Requirement]:
    """The requirements of a package in this environment. Of the package's extras, only those named are included.

    Raises:
        PackageNotFoundError: the package is not installed.
    """
    every = map(Requirement, metadata.requires(name) or ())
    asked = [{"extra": extra} for extra in (extras or {""})]
    return [each for each in every if each.marker is None or any(map(each.marker.evaluate, asked))]


def release(name: str) -> str:
    """The public version of a package, without its local part: `2.14.1` for the CPU build `2.14.1+cpu` of torch.

    Raises:
        PackageNotFoundError: the package is not installed.
    """
    return Version(metadata.version(name)).public


def constraints() -> list[str]:
    """The lines of a pip constraints file: `NAME==VERSION` of every direct and indirect dependency of this package."""
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

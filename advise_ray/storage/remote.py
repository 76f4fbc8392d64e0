"""Accesses files in a local folder or at a URL (s3://, gs://, hdfs://, http://, https://)."""

from __future__ import annotations

import io
import itertools
import os
import stat
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from advise_ray.errors import UsageError
from advise_ray.storage.atomic import write_whole
from advise_ray.storage.transports import ObjectStore, StoredFile, WebServer


def local_or_url(location: str) -> str:
    """Return a URL unchanged; return a path, or a `file://` URL, as an absolute path.

    Raises:
        UsageError: The URL has no bucket and no server.
    """
    parts = urllib.parse.urlsplit(location)
    if parts.scheme == "file":
        location = urllib.parse.unquote(parts.path)
    elif is_url(location) and not parts.netloc:
        raise UsageError(f"--videos: {location} has no bucket or server")
    return location if is_url(location) else str(Path(os.path.expanduser(location)).absolute())  # noqa: PTH111


def is_url(location: str) -> bool:
    """Return whether a location is a URL, not a local path."""
    return "://" in location


def join(root: str, path: str) -> str:
    """Return the location of a file below a root. The query of a URL (an endpoint, a region) stays at its end."""
    if not is_url(root):
        return str(Path(root) / path)
    parts = urllib.parse.urlsplit(root)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{urllib.parse.quote(path)}").geturl()


def list_files(root: str, unreadable: dict[str, str] | None = None) -> Iterator[StoredFile]:
    """Yield all files below a folder, in any order. Local links are followed; a folder with several names is read once.

    Args:
        unreadable: Gets the paths below the root that are skipped, and the reasons. None: a folder that cannot be read
            is an error.

    Raises:
        UsageError: The folder or bucket does not exist, or cannot be read.
    """
    if not is_url(root):
        yield from _list_local(root, unreadable)
        return
    try:
        yield from _remote(root).list_files(unreadable)
    except OSError as error:
        raise UsageError(f"--videos: {root}: {error}") from None


def read(location: str) -> bytes:
    """Read a remote file as bytes; retry a few times after network errors.

    Raises:
        StorageError: The file does not exist, access is denied, or the server cannot be reached.
    """
    return _remote(location).read()


def read_file(location: str) -> bytes:
    """Read a file at a path or a URL.

    Raises:
        OSError: The file cannot be read. For a URL it is a StorageError.
    """
    return read(location) if is_url(location) else Path(location).read_bytes()


def open_random(location: str) -> Any:
    """Open a file for random access, as a `NativeFile` of pyarrow. A local file is memory-mapped.

    Raises:
        OSError: The file cannot be opened. For a URL it is a StorageError.
    """
    if not is_url(location):
        import pyarrow as pa

        return pa.memory_map(location)
    return _writable(location).open_random()


def write(location: str, content: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically, and retry, as `write_whole` does. If it fails, an existing file stays unchanged.

    Args:
        content: Writes the bytes. It is called again for each retry.

    Raises:
        OSError: The disk is full, access is denied, or the storage does not answer. For a URL it is a StorageError.
    """
    if is_url(location):
        buffer = io.BytesIO()  # buffered, because pyarrow closes a failed stream, which would write a partial file
        content(buffer)
        _writable(location).write(buffer.getbuffer())
    else:
        write_whole(Path(location), content)


def delete(location: str) -> None:
    """Remove a file at a path or a URL. It is no error if the file does not exist."""
    if is_url(location):
        _writable(location).delete()
    else:
        Path(location).unlink(missing_ok=True)


def _writable(location: str) -> ObjectStore:
    remote = _remote(location)
    if not isinstance(remote, ObjectStore):
        raise UsageError(
            f"{location}: a feature cache cannot be on a web server; use a folder, s3://, gs:// or hdfs://"
        )
    return remote


def _list_local(root: str, unreadable: dict[str, str] | None) -> Iterator[StoredFile]:
    if not Path(root).is_dir():
        raise UsageError(f"--videos: {root} {'is not a folder' if Path(root).exists() else 'does not exist'}")
    entered: set[str] = set()
    tops = [root]

    def cannot_read(error: OSError) -> None:
        if unreadable is None or Path(error.filename) == Path(root):
            raise UsageError(f"--videos: {error.filename}: {error.strerror}") from None
        unreadable[os.path.relpath(error.filename, root)] = str(error.strerror)

    # Links come after all folders, so that a folder with a link keeps its own name.
    for folder, folders, names in itertools.chain.from_iterable(os.walk(top, onerror=cannot_read) for top in tops):
        real = os.path.realpath(folder)
        if real in entered:
            folders.clear()
            if unreadable is not None:
                unreadable[os.path.relpath(folder, root)] = "a link to a folder that is read under another name"
            continue
        entered.add(real)
        tops += [link for name in folders if os.path.islink(link := os.path.join(folder, name))]  # noqa: PTH114, PTH118
        for name in names:
            path = Path(folder) / name
            try:
                status = path.stat()
            except OSError:  # a broken link: reading it reports the error
                yield StoredFile(path.relative_to(root).as_posix())
                continue
            if stat.S_ISREG(status.st_mode):
                yield StoredFile(path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns)
            elif unreadable is not None:  # reading a pipe would never end
                unreadable[path.relative_to(root).as_posix()] = "a pipe, socket or device, not a file"


def _remote(location: str) -> ObjectStore | WebServer:
    parts = urllib.parse.urlsplit(location)
    if parts.password is not None or "@" in parts.netloc:
        raise UsageError(
            f"{parts.scheme}://…@{parts.netloc.rpartition('@')[2]}: a URL must not contain credentials, because "
            "manifests store it; set environment variables instead (AWS_ACCESS_KEY_ID, …)"
        )
    return WebServer(location) if parts.scheme in ("http", "https") else ObjectStore(location)

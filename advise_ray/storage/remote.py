"""Where videos lie: in a local folder, or behind a URL (s3://, gs://, hdfs://, http://, https://)."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from advise_ray.errors import UsageError
from advise_ray.storage.transports import ObjectStore, StoredFile, WebServer


def local_or_url(location: str) -> str:
    """A URL as it is, with a bucket or a server; anything else, `file://` too, as an absolute path.

    Raises:
        UsageError: a URL that names neither.
    """
    parts = urllib.parse.urlsplit(location)
    if parts.scheme == "file":
        location = urllib.parse.unquote(parts.path)
    elif is_url(location) and not parts.netloc:
        raise UsageError(f"--videos: {location} names no bucket or server")
    return location if is_url(location) else str(Path(os.path.expanduser(location)).absolute())  # noqa: PTH111


def is_url(location: str) -> bool:
    """Whether a location is a URL, not a local path."""
    return "://" in location


def join(root: str, path: str) -> str:
    """The location of a file below a root; a URL's query (an endpoint, a region) stays at its end."""
    if not is_url(root):
        return str(Path(root) / path)
    parts = urllib.parse.urlsplit(root)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{urllib.parse.quote(path)}").geturl()


def list_files(root: str, unreadable: dict[str, str] | None = None) -> Iterator[StoredFile]:
    """All files below a folder, in any order; local links are followed, once each.

    Args:
        unreadable: takes what is below the root and cannot be read: path → why. None: then that is an error too.

    Raises:
        UsageError: the folder or bucket does not exist, or may not be read, and which of these it is.
    """
    if not is_url(root):
        yield from _list_local(root, unreadable)
        return
    try:
        yield from _remote(root).list_files(unreadable)
    except OSError as error:
        raise UsageError(f"--videos: {root}: {error}") from None


def read(location: str) -> bytes:
    """A remote file as bytes, tried again a few times where the network is to blame.

    Raises:
        StorageError: it is not there, may not be read, or cannot be reached.
    """
    return _remote(location).read()


def read_file(location: str) -> bytes:
    """A file, local or behind a URL.

    Raises:
        OSError: it cannot be read; of a URL a StorageError.
    """
    return read(location) if is_url(location) else Path(location).read_bytes()


def open_random(location: str) -> Any:
    """A file to be read here and there, as pyarrow's `NativeFile`: mapped where it is local.

    Raises:
        OSError: it is not there; of a URL a StorageError.
    """
    if not is_url(location):
        import pyarrow as pa

        return pa.memory_map(location)
    return _writable(location).open_random()


@contextlib.contextmanager
def writing(location: str) -> Iterator[Any]:
    """A binary file to be written; where the block fails, there is none, and a file of that name stays as it was.

    Raises:
        OSError: there is no room, or no right to write; of a URL a StorageError where it cannot be reached.
    """
    if is_url(location):
        content = io.BytesIO()  # pyarrow closes a stream that fails, and with that the half of it is there
        yield content
        _writable(location).write(content.getbuffer())
        return
    path = Path(location)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def delete(location: str) -> None:
    """Remove a file, local or behind a URL; one that is not there is no error."""
    if is_url(location):
        _writable(location).delete()
    else:
        Path(location).unlink(missing_ok=True)


def _writable(location: str) -> ObjectStore:
    remote = _remote(location)
    if not isinstance(remote, ObjectStore):
        raise UsageError(f"{location}: a web server cannot hold a feature cache; use a folder, s3://, gs:// or hdfs://")
    return remote


def _list_local(root: str, unreadable: dict[str, str] | None) -> Iterator[StoredFile]:
    if not Path(root).is_dir():
        raise UsageError(f"--videos: {root} is not a folder")
    entered = set()

    def cannot_read(error: OSError) -> None:
        if unreadable is None or Path(error.filename) == Path(root):
            raise UsageError(f"--videos: {error.filename}: {error.strerror}") from None
        unreadable[os.path.relpath(error.filename, root)] = str(error.strerror)

    for folder, folders, names in os.walk(root, onerror=cannot_read, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:  # a link that leads back up
            folders.clear()
            continue
        entered.add(real)
        for name in names:
            path = Path(folder) / name
            try:
                status = path.stat()
            except OSError:  # a link to nowhere: reading it will say so
                yield StoredFile(path.relative_to(root).as_posix())
                continue
            if stat.S_ISREG(status.st_mode):
                yield StoredFile(path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns)
            elif unreadable is not None:  # reading a pipe would wait for ever
                unreadable[path.relative_to(root).as_posix()] = "a pipe, socket or device, no file"


def _remote(location: str) -> ObjectStore | WebServer:
    parts = urllib.parse.urlsplit(location)
    if parts.password is not None or "@" in parts.netloc:
        raise UsageError(
            f"{parts.scheme}://…@{parts.netloc.rpartition('@')[2]}: credentials do not belong into a URL, which is "
            "written into manifests; give them to the environment (AWS_ACCESS_KEY_ID, …)"
        )
    return WebServer(location) if parts.scheme in ("http", "https") else ObjectStore(location)

"""Where videos lie: in a local folder, or behind a URL (s3://, gs://, hdfs://, http://, https://)."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import stat
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from advise_ray.errors import UsageError

RETRY_AFTER_S = (0.5, 1.0, 2.0, 4.0)
"""Waits between the attempts to read; only what may pass is tried again."""
GCS_PATIENCE_S = 5
"""How long Google's client goes on with one attempt of ours."""
T = TypeVar("T")


class StorageError(OSError):
    """A location that cannot be read, in one short phrase."""


@dataclass(frozen=True)
class StoredFile:
    """A file below a root: its path relative to it with `/`, its size, and when it was written (where that is told)."""

    path: str
    bytes: int | None = None
    modified_ns: int | None = None


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


def _writable(location: str) -> _Arrow:
    remote = _remote(location)
    if not isinstance(remote, _Arrow):
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


def _remote(location: str) -> _Arrow | _Http:
    parts = urllib.parse.urlsplit(location)
    if parts.password is not None or "@" in parts.netloc:
        raise UsageError(
            f"{parts.scheme}://…@{parts.netloc.rpartition('@')[2]}: credentials do not belong into a URL, which is "
            "written into manifests; give them to the environment (AWS_ACCESS_KEY_ID, …)"
        )
    return _Http(location) if parts.scheme in ("http", "https") else _Arrow(location)


class _Arrow:
    """What pyarrow.fs reaches: S3, Google's storage, HDFS, Azure."""

    def __init__(self, location: str) -> None:
        parts = urllib.parse.urlsplit(location)
        self.files, self.root = _arrow_files(f"{parts.scheme}://{parts.netloc}", parts.query)
        self.path = f"{self.root}{urllib.parse.unquote(parts.path)}".rstrip("/")

    def list_files(self, _unreadable: dict[str, str] | None) -> Iterator[StoredFile]:
        from pyarrow.fs import FileSelector, FileType

        found = _retrying(lambda: self.files.get_file_info(FileSelector(self.path, recursive=True)))
        for info in found:
            if info.type == FileType.File:
                path = info.path[len(self.path) :].lstrip("/")
                yield StoredFile(path, info.size, info.mtime_ns)

    def read(self) -> bytes:
        def once() -> bytes:
            with self.files.open_input_file(self.path) as file:
                content: bytes = file.read()
                return content

        return _retrying(once)

    def open_random(self) -> Any:
        return _retrying(lambda: self.files.open_input_file(self.path))

    def write(self, content: memoryview) -> None:
        """The object appears whole: what is sent is complete before the first byte of it."""

        def once() -> None:
            with self.files.open_output_stream(self.path) as file:
                file.write(content)

        _retrying(once)

    def delete(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.files.delete_file(self.path)


@functools.lru_cache(maxsize=16)
def _arrow_files(bucket: str, query: str) -> tuple[Any, str]:
    """A file system, once a process: it asks for the bucket's region, and holds connections.

    pyarrow (25) takes an endpoint from the URL's query only; other tools take `AWS_ENDPOINT_URL`, so we do too.
    """
    from pyarrow.fs import FileSystem

    endpoint = urllib.parse.urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    if bucket.startswith("s3://") and endpoint.netloc and "endpoint_override" not in query:
        told = urllib.parse.urlencode({"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme})
        query = f"{query}&{told}" if query else told
    if bucket.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in query:
        told = f"retry_limit_seconds={GCS_PATIENCE_S}"  # of its own: else it goes on for a quarter of an hour
        query = f"{query}&{told}" if query else told

    def connect() -> tuple[Any, str]:
        try:
            files, root = FileSystem.from_uri(f"{bucket}?{query}" if query else bucket)
        except ValueError as error:  # pyarrow.ArrowInvalid is one: a scheme that it does not know
            raise UsageError(f"{bucket}: {error}") from None
        return files, root.rstrip("/")

    return _retrying(connect)


class _Http:
    """A web server; to list it, it has to show an index page of each folder."""

    def __init__(self, location: str) -> None:
        import fsspec

        self.location = location
        self.files = fsspec.filesystem(urllib.parse.urlsplit(location).scheme)

    def list_files(self, unreadable: dict[str, str] | None) -> Iterator[StoredFile]:
        root = self.location.rstrip("/") + "/"
        folders = [root]
        while folders:  # fsspec's own walk leaves out what it cannot list
            folder = folders.pop()
            try:
                entries = _retrying(functools.partial(self.files.ls, folder, detail=True))
            except StorageError as error:
                if unreadable is None or folder == root:
                    raise
                unreadable[urllib.parse.unquote(folder[len(root) :])] = str(error)
                continue
            for entry in entries:
                if entry["type"] == "directory" and entry["name"].startswith(folder) and entry["name"] != folder:
                    folders.append(entry["name"].rstrip("/") + "/")
                elif entry["type"] == "file" and entry["name"].startswith(folder):
                    yield StoredFile(urllib.parse.unquote(entry["name"][len(root) :]))

    def read(self) -> bytes:
        content: bytes = _retrying(lambda: self.files.cat_file(self.location))
        return content


def _retrying(attempt: Callable[[], T]) -> T:
    for wait_s in (*RETRY_AFTER_S, None):
        try:
            return attempt()
        except UsageError:
            raise
        except Exception as error:  # pyarrow's are OSErrors, fsspec lets those of its HTTP library through
            final = _final_reason(error)
            if final or wait_s is None:
                raise StorageError(final or f"cannot be reached ({' '.join(str(error).split())[:200]})") from None
        time.sleep(wait_s)
    raise AssertionError("unreachable")


FINAL_REASONS = {
    "there is no such bucket": r"NO_SUCH_BUCKET|NoSuchBucket|Bucket '.*' not found",
    "access denied; check the credentials in the environment": "ACCESS_DENIED|PERMISSION_DENIED|INVALID_ACCESS_KEY",
    "no such bucket, folder or file": "RESOURCE_NOT_FOUND|NO_SUCH_KEY|HTTP status code 404",
}
"""What no further attempt can change, and how pyarrow's messages of S3 and GCS tell it."""


def _final_reason(error: Exception) -> str | None:
    status = getattr(error, "status", None)  # of HTTP
    if isinstance(error, FileNotFoundError) or status == 404:
        return "no such file or folder"
    if isinstance(error, PermissionError) or status in (401, 403):
        return "access denied"
    return next((reason for reason, told in FINAL_REASONS.items() if re.search(told, str(error))), None)

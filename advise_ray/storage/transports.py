"""Connections to remote storage: object stores with pyarrow, web servers with fsspec. Failed attempts are retried."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from advise_ray.errors import UsageError

RETRY_AFTER_S = (0.5, 1.0, 2.0, 4.0)
"""Pauses between attempts, in seconds. Only temporary errors are retried."""
GCS_PATIENCE_S = 5
"""Time limit of Google's client for one attempt, in seconds."""
T = TypeVar("T")
FINAL_REASONS = {
    "there is no such bucket": r"NO_SUCH_BUCKET|NoSuchBucket|Bucket '.*' not found",
    "access denied; check the credentials in the environment": "ACCESS_DENIED|PERMISSION_DENIED|INVALID_ACCESS_KEY",
    "no such bucket, folder or file": "RESOURCE_NOT_FOUND|NO_SUCH_KEY|HTTP status code 404",
}
"""Permanent errors, and the patterns that identify them in pyarrow's messages for S3 and GCS."""


class StorageError(OSError):
    """A location cannot be read; the message is one short phrase."""


@dataclass(frozen=True)
class StoredFile:
    """A file below a root: its relative path with `/`, its size, and its modification time (None: unknown)."""

    path: str
    bytes: int | None = None
    modified_ns: int | None = None


class ObjectStore:
    """A file in an object store that pyarrow.fs supports: S3, Google Cloud Storage, HDFS, Azure."""

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
        """Write the object atomically: all of its bytes exist before the first one is sent."""

        def once() -> None:
            with self.files.open_output_stream(self.path) as file:
                file.write(content)

        _retrying(once)

    def delete(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.files.delete_file(self.path)


class WebServer:
    """A file or folder on a web server. Listing a folder needs an index page for each folder."""

    def __init__(self, location: str) -> None:
        import fsspec

        self.location = location
        self.files = fsspec.filesystem(urllib.parse.urlsplit(location).scheme)

    def list_files(self, unreadable: dict[str, str] | None) -> Iterator[StoredFile]:
        root = self.location.rstrip("/") + "/"
        folders = [root]
        while folders:  # fsspec's `walk` skips folders that it cannot list, without an error
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


@functools.lru_cache(maxsize=16)
def _arrow_files(bucket: str, query: str) -> tuple[Any, str]:
    """Return a file system, cached per process, because it looks up the bucket's region and keeps connections.

    pyarrow (25) reads an endpoint only from the URL's query. Other tools read `AWS_ENDPOINT_URL`, so this does too.
    """
    from pyarrow.fs import FileSystem

    endpoint = urllib.parse.urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    if bucket.startswith("s3://") and endpoint.netloc and "endpoint_override" not in query:
        setting = urllib.parse.urlencode({"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme})
        query = f"{query}&{setting}" if query else setting
    if bucket.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in query:
        setting = f"retry_limit_seconds={GCS_PATIENCE_S}"  # otherwise Google's client retries for 15 minutes
        query = f"{query}&{setting}" if query else setting

    def connect() -> tuple[Any, str]:
        try:
            files, root = FileSystem.from_uri(f"{bucket}?{query}" if query else bucket)
        except ValueError as error:  # such as pyarrow.ArrowInvalid, for an unknown scheme
            raise UsageError(f"{bucket}: {error}") from None
        return files, root.rstrip("/")

    return _retrying(connect)


def _retrying(attempt: Callable[[], T]) -> T:
    for wait_s in (*RETRY_AFTER_S, None):
        try:
            return attempt()
        except UsageError:
            raise
        except Exception as error:  # pyarrow raises OSErrors, fsspec those of its HTTP library
            final = _final_reason(error)
            if final or wait_s is None:
                raise StorageError(final or f"cannot be reached ({' '.join(str(error).split())[:200]})") from None
        time.sleep(wait_s)
    raise AssertionError("unreachable")


def _final_reason(error: Exception) -> str | None:
    status = getattr(error, "status", None)  # HTTP status
    if isinstance(error, FileNotFoundError) or status == 404:
        return "no such file or folder"
    if isinstance(error, PermissionError) or status in (401, 403):
        return "access denied"
    return next((reason for reason, pattern in FINAL_REASONS.items() if re.search(pattern, str(error))), None)

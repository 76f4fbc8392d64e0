"""Each writer of whole files, with a fault at each of its file operations."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from advise_ray.storage import remote, retry
from advise_ray.storage.atomic import write_whole
from advise_ray.storage.jsonl import append, reopen
from advise_ray.storage.lock import hold_lock
from advise_ray.storage.parquet import read_table, write_table
from tests.faults import survives


def replace_text(folder: Path) -> None:
    write_whole(folder / "a.json", "old")
    write_whole(folder / "a.json", "new")


def append_lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "a.jsonl"
    for number in range(3):
        append(path, [{"number": number}, {"number": number, "again": True}])
    return retry.patiently(lambda: reopen(path))


def table(folder: Path) -> int:
    write_table(pa.table({"a": list(range(10))}), folder / "a.parquet")
    return len(retry.patiently(lambda: read_table(folder / "a.parquet")))


def streamed(folder: Path) -> None:
    def content(file: Any) -> None:
        for number in range(3):
            file.write(bytes([number]))

    remote.write(str(folder / "part"), content)


def locked(folder: Path) -> None:
    with hold_lock(folder / ".lock"):
        pass


@pytest.mark.parametrize("work", [replace_text, append_lines, table, streamed, locked])
def test_a_fault_changes_nothing(work: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert survives(work, tmp_path / "storage", monkeypatch)


@pytest.mark.parametrize("code", retry.LASTING)
def test_a_full_or_closed_disk_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def content(file: Any) -> None:
        raise OSError(code, "no")

    started_s = time.monotonic()
    for write in (lambda: write_whole(tmp_path / "a", content), lambda: remote.write(str(tmp_path / "a"), content)):
        with pytest.raises(OSError, match="no") as caught:
            write()
        assert caught.value.errno == code
    assert time.monotonic() - started_s < retry.PAUSE_S
    assert list(tmp_path.iterdir()) == []


def test_storage_that_stays_away_is_an_error_and_is_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "PATIENCE_S", 0.0)
    for work in (replace_text, append_lines, table, streamed, locked):
        with pytest.raises(OSError, match="No such file") as caught:
            work(tmp_path / "gone")
        assert caught.value.errno == errno.ENOENT
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_hold_one_lock(tmp_path: Path) -> None:
    with hold_lock(tmp_path / ".lock"), pytest.raises(BlockingIOError), hold_lock(tmp_path / ".lock", wait_s=0.1):
        pass
    with hold_lock(tmp_path / ".lock"):
        pass

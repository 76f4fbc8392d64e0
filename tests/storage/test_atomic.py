"""Atomic writes, and paths that are refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from advise_ray.errors import UsageError
from advise_ray.storage import retry
from advise_ray.storage.atomic import refuse_unwritable, write_whole


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "new" / "folder" / "file.json", "--out")
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_is_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refuse_unwritable(Path("file.json"), "--out")


@pytest.mark.parametrize(
    ("where", "why"),
    [("file/under/it.json", "Not a directory"), ("folder", "Is a directory"), ("/proc/result.json", "No such file")],
)
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, where: str, why: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=rf"^--out: cannot write .*{where}: {why}"):
        refuse_unwritable(tmp_path / where, "--out")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PATIENCE_S", 0.0)
    write_whole(tmp_path / "state.json", "old")
    (tmp_path / ".state.json.partial").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        write_whole(tmp_path / "state.json", "new")
    assert (tmp_path / "state.json").read_text() == "old"

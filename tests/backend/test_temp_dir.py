"""Where our own Ray keeps its files."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from advise_ray.backend import temp_dir
from advise_ray.errors import RayError


@pytest.fixture(autouse=True)
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's own place, instead of /tmp."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(temp_dir, "LONGEST_BYTES", len(os.fsencode(tmp_path)) + 30)
    monkeypatch.setattr(temp_dir, "ELSEWHERE", (str(tmp_path),))
    return tmp_path


def test_without_a_wish_it_is_rays_usual_directory(system: Path) -> None:
    assert temp_dir.choose() == str(system / "ray")


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("place", ["scratch", "with blank", "zwölf"])
def test_a_place_that_fits_is_taken(name: str, place: str, system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (system / place).mkdir()
    monkeypatch.setenv(name, str(system / place))
    assert temp_dir.choose() == str(system / place / "ray")


def test_a_relative_place_becomes_absolute(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (system / "here").mkdir()
    monkeypatch.chdir(system)
    monkeypatch.setenv("TMPDIR", "here")
    assert temp_dir.choose() == str(system / "here" / "ray")


def test_ray_tmpdir_goes_before_tmpdir(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        (system / name).mkdir()
        monkeypatch.setenv(name, str(system / name))
    assert temp_dir.choose() == str(system / "RAY_TMPDIR" / "ray")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("job_1234567_of_somebody_on_node_0042", "is too long for Ray's sockets"),
        ("gone", "cannot be used (No such file or directory)"),
        ("a_file", "cannot be used (Not a directory)"),
    ],
)
def test_another_place_is_used_and_told(
    place: str, reason: str, system: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (system / "a_file").touch()
    monkeypatch.setenv("TMPDIR", str(system / place))
    with caplog.at_level(logging.WARNING, logger="advise_ray"):
        assert temp_dir.choose() == str(system / "ray")
    assert caplog.messages == [
        f"note: Ray's files are in {system}/ray, because TMPDIR is {system / place}, which {reason}"
    ]
    assert not (system / "gone").exists()


def test_a_full_place_and_one_that_another_user_closed_are_passed_over(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(file: int, _start: int, _bytes: int) -> None:
        if "/full/" in str(Path(f"/proc/self/fd/{file}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(temp_dir.os, "posix_fallocate", allocate)
    (system / "full" / "ray").mkdir(parents=True)
    (system / "ray").touch()  # nobody can make the usual directory
    monkeypatch.setenv("TMPDIR", str(system / "full"))
    assert temp_dir.choose() == str(system / f"ray-{os.getuid()}")


def test_where_no_place_can_be_used_it_says_what_to_do(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temp_dir, "ELSEWHERE", (str(system / "gone"),))
    with pytest.raises(
        RayError, match=r"gone, which cannot be used .*; free some space, or set RAY_TMPDIR to a directory"
    ):
        temp_dir.choose()


def test_rays_longest_socket_fits() -> None:
    longest = "/session_2030-01-01_00-00-00_000000_4194304/sockets/dash_MetricsHead"
    assert len("/tmp/ray") + len(longest) < 107
    assert 39 + len(longest) == 107

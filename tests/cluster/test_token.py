"""A cluster that requires a token, and clients with no token or another one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.heads import free_port, running_head
from tests.runs import command

pytestmark = pytest.mark.full


FITS, OTHER = "5" * 64, "6" * 64


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, str]]:
    """The addresses of its job server, and of the Ray that a driver joins."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_MODE", "token")
            patch.setenv("RAY_AUTH_TOKEN", FITS)
            port = free_port()
            address = stack.enter_context(running_head(0, f"--port={port}"))
        yield address, f"127.0.0.1:{port}"


def advise_ray(*arguments: str, home: Path, token: str | None, **env: str) -> tuple[int, str]:
    """Exit code and standard error, for a user with a token."""
    (home / ".ray").mkdir()
    if token is not None:
        (home / ".ray" / "auth_token").write_text(token)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
    done = subprocess.run(command(*arguments), env=clean | {"HOME": str(home)} | env, capture_output=True, text=True)
    return done.returncode, done.stderr


ADVICE = "copy ~/.ray/auth_token from the cluster's head to ~/.ray/auth_token on this machine"


@pytest.mark.parametrize(
    ("token", "env", "said"),
    [
        (None, {}, "asks for a token, and this machine has none"),
        (OTHER, {}, "refuses the token in ~/.ray/auth_token"),
        (FITS, {"RAY_AUTH_TOKEN": OTHER}, "refuses the token in RAY_AUTH_TOKEN"),
    ],
)
def test_a_token_that_does_not_fit_is_told_in_a_line(
    head: tuple[str, str], tmp_path: Path, token: str | None, env: dict[str, str], said: str
) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(f"address: {head[0]}\n")
    line = ("data", "check", "clips.parquet", "--cluster", str(cluster))
    assert advise_ray(*line, home=tmp_path, token=token, **env) == (
        2,
        f"error: {head[0]}: the cluster {said}; {ADVICE}\n",
    )


def test_so_it_is_where_a_ray_is_joined(head: tuple[str, str], tmp_path: Path) -> None:
    """Which Ray itself would try for a minute, a line each second."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").touch()
    where = ("--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "clips.parquet"))
    line = ("data", "index", "--format", "folder", *where)
    told = f"error: RAY_ADDRESS {head[1]}: the cluster refuses the token in ~/.ray/auth_token; {ADVICE}\n"
    assert advise_ray(*line, home=tmp_path, token=OTHER, RAY_ADDRESS=head[1]) == (2, told)

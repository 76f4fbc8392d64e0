"""A cluster that asks for a token, and who has none or another one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.heads import running_head
from tests.runs import command

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_MODE", "token")
            patch.setenv("RAY_AUTH_TOKEN", "5" * 64)
            address = stack.enter_context(running_head(num_cpus=0))
        path.write_text(f"address: {address}\n")
        yield path


@pytest.mark.parametrize(
    ("token", "env", "said"),
    [
        (None, {}, "asks for a token, and there is none here"),
        ("6" * 64, {}, "refuses the token in ~/.ray/auth_token"),
        ("5" * 64, {"RAY_AUTH_TOKEN": "6" * 64}, "refuses the token in RAY_AUTH_TOKEN"),
    ],
)
def test_a_token_that_does_not_fit_is_told_in_a_line(
    cluster: Path, tmp_path: Path, token: str | None, env: dict[str, str], said: str
) -> None:
    (tmp_path / ".ray").mkdir()
    if token is not None:
        (tmp_path / ".ray" / "auth_token").write_text(token)
    line = command("data", "check", "clips.parquet", "--cluster", str(cluster))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(line, env=clean | {"HOME": str(tmp_path)} | env, capture_output=True, text=True)
    assert done.returncode == 2
    address = cluster.read_text().split()[1]
    advice = "put the one of its head (~/.ray/auth_token there) into ~/.ray/auth_token here"
    assert done.stderr == f"error: {address}: the cluster {said}; {advice}\n"

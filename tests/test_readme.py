"""Every command of the README can be parsed and planned, and runs as it stands there, cut short by settings alone."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from advise_ray.cli.main import main
from advise_ray.config import load
from advise_ray.sweep.settings import settings_of
from tests.runs import answers, eventually, set_options

README = Path(__file__).parents[1] / "README.md"
SERVE = re.search(r"^mlflow server .*$", README.read_text(), flags=re.MULTILINE)
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)
SMALL = (
    "train.epochs=1",
    "data.clip.clips_per_video=1",
    "augment={resize_height_px: 72, resize_width_px: 88, crop_size_px: 64}",
    "model.ifm={name: 'timm:test_efficientnet', weights: none, layer: -1}",
    "model.sfu.spatial_size=2",
)
SET_UP, TEST, *USE = [line for block in BLOCKS for line in block.splitlines()]


def test_the_first_two_commands_set_up_and_go() -> None:
    """`.ci/run` runs the second to the letter, so that a missing install step shows."""
    assert SET_UP.split(" && ")[0] == TEST.split(" && ")[0] == "python3 -m venv .venv"
    assert SET_UP.endswith(".venv/bin/advise-ray train")
    assert TEST.endswith(".venv/bin/pytest")
    assert len(PLANNED) > 5
    assert len(COMMANDS) > 20


def test_the_search_that_is_shown_holds(tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    recipe = tmp_path / "sweep.yaml"
    recipe.write_text(shown)
    assert len(settings_of(load(recipe, ["model.tmm.out_dim=64"]))) == 4 * (1 + 2) * 2 * 2


COMMANDS = [line for line in USE if line.startswith("advise-ray")]
PLANNED = [line for line in COMMANDS if line.split()[1] in ("train", "cache") and "--config" in line]
OWN = ("data.features=null", "model.init_from=null")
"""What earlier commands would have made."""


def parsed(line: str) -> click.Context:
    """As click takes it, to the last option; nothing runs."""
    group, context, rest = main, main.make_context("advise-ray", shlex.split(line)[1:]), []
    while isinstance(group, click.Group):
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        assert name is not None
        assert command is not None
        context, group = command.make_context(name, rest, parent=context), command
    return context


@pytest.mark.parametrize("line", COMMANDS, ids=range(len(COMMANDS)))
def test_every_command_is_one(line: str) -> None:
    assert parsed(line).command.help


@pytest.mark.parametrize("line", PLANNED, ids=range(len(PLANNED)))
def test_every_command_that_trains_can_be_planned(
    line: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = (README.parent / "jobs" / "rates" / "one_h100.yaml").absolute()
    monkeypatch.chdir(tmp_path)
    shutil.copy(manifest, "clips.parquet")
    command = [word for word in shlex.split(line)[1:] if word != "--dry-run"]
    result = CliRunner().invoke(main, [*command, *set_options(OWN), "--dry-run", "--rates", str(rates), "--json"])
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["videos_to_encode"] == 24 if command[0] == "cache" else plan["train_videos"] in (14, 16)
    assert {"live_hours", "cached_hours", "cache_bytes"} <= plan["cost"].keys()
    assert [path.name for path in tmp_path.iterdir()] == ["clips.parquet"]


@pytest.mark.parametrize("line", [line for line in USE if line not in COMMANDS])
def test_every_script_is_there(line: str) -> None:
    python, script, *arguments = shlex.split(line)
    help_text = subprocess.check_output([sys.executable, script, "--help"], cwd=README.parent, text=True)
    assert python == "python"
    assert all(argument in help_text for argument in arguments if argument.startswith("--"))


def shortened(line: str) -> list[str]:
    command = shlex.split(line)
    settings: tuple[str, ...] = ()
    if command[1] in ("train", "tune", "cache") and "--resume" not in command:
        settings += SMALL
    if command[1] == "tune" and "--resume" not in command:
        settings += ('search={"model.sfu.spatial_size": {grid: [1, 2]}}',)
    return command + set_options(settings)


@pytest.mark.full
def test_every_command_runs(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first as a process of its own; the others, where they are ours, in this one, which saves minutes."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the command's answer to SIGTERM is not for pytest
    Path("jobs").symlink_to(README.parent / "jobs")  # one reads from the repository's folder
    first = [*shlex.split(SET_UP.rsplit("/", 1)[1]), "--set", "train.epochs=1"]
    subprocess.run(first, env=environment, check=True, timeout=300)
    for line in USE:
        command = shortened(line)
        if command[0] == "advise-ray":
            result = CliRunner().invoke(main, command[1:])
            assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
        else:
            subprocess.run(command, env=environment, check=True, timeout=300)
    (example,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    subprocess.run([sys.executable, "-c", example + "assert embeddings.shape == (2, 64)"], cwd=tmp_path, check=True)
    assert {"first", "second"} <= {path.name for path in (tmp_path / "runs").iterdir()}
    assert SERVE
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = subprocess.Popen(
        ["bash", "-c", "exec " + SERVE[0].replace("5000", port)], cwd=tmp_path, env=environment, start_new_session=True
    )
    try:
        eventually(lambda: answers(f"http://127.0.0.1:{port}/"), alive=server)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert "MLflow" in answer.read().decode()
    finally:
        os.killpg(server.pid, signal.SIGKILL)

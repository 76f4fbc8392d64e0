"""The documents: every command can be parsed, and planned or run as it is; every link has a target."""

from __future__ import annotations

import contextlib
import functools
import itertools
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

from advise_ray.cli import shared
from advise_ray.cli.main import main
from advise_ray.config import load
from advise_ray.sweep.settings import settings_of
from tests.runs import answers, eventually, set_options

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
GUIDE = "jobs/README.md"
DOCUMENTS = ("README.md", GUIDE, "jobs/RESULTS.md", "cluster/README.md", "tests/README.md")
TEXTS = {name: (ROOT / name).read_text() for name in DOCUMENTS}


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of a document in these languages, a regular expression."""
    return re.findall(rf"^```(?:{language})\n(.*?)^```", TEXTS[document], flags=re.DOTALL | re.MULTILINE)


def lines(document: str, language: str) -> list[str]:
    """Their commands, a line each."""
    return [line for block in blocks(document, language) for line in block.replace("\\\n", " ").splitlines()]


SET_UP, TEST, *_ = lines("README.md", "bash")
RUN = {name: [line for line in lines(name, "bash") if line not in (SET_UP, TEST)] for name in ("README.md", GUIDE)}
"""What `test_every_command_runs` runs: the `bash` blocks. What needs more than a fresh clone is in `sh` blocks."""
COMMANDS = [line for name in DOCUMENTS for line in lines(name, "bash|sh") if not line.startswith("python3 -m venv ")]
PLANNED = [
    line
    for line in COMMANDS
    if re.match(r"advise-ray (train|cache) .*--config", line)
    and "--cluster" not in line  # whose recipe is the reader's
    and "finetune.yaml" not in line  # which `init` writes
]
SWEEPS = [line for line in COMMANDS if line.startswith("advise-ray tune --config")]
INLINE = sorted({found for text in TEXTS.values() for found in re.findall(r"`((?:advise-ray|ray) [^`…]+)`", text)})
OWN = ("data.features=null", "model.init_from=null")
"""What earlier commands would have made."""
SMALL = (
    "train.epochs=1",
    "data.clip.clips_per_video=1",
    "augment={resize_height_px: 72, resize_width_px: 88, crop_size_px: 64}",
    "model.ifm={name: 'timm:test_efficientnet', weights: none, layer: -1}",
    "model.sfu.spatial_size=2",
)


def test_the_first_two_commands_set_up_and_go() -> None:
    """`.ci/run` runs the second to the letter, so that a missing install step shows."""
    assert SET_UP.split(" && ")[0] == TEST.split(" && ")[0] == "python3 -m venv .venv"
    assert SET_UP.endswith(".venv/bin/advise-ray train")
    assert TEST.endswith(".venv/bin/pytest")
    assert len(PLANNED) > 5
    assert len(SWEEPS) > 2
    assert all(len(run) > 5 for run in RUN.values())


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 200
    assert len(TEXTS["tests/README.md"].splitlines()) < 60


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    """To a file, or to a heading of the same document, by the name that GitHub gives it."""
    links = re.findall(r"\]\(([^)\s]+)\)", TEXTS[document])
    headings = re.findall(r"^#+ (.*)$", TEXTS[document], flags=re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    local = [link for link in links if "://" not in link]
    there = [link in anchors if link.startswith("#") else ((ROOT / document).parent / link).exists() for link in local]
    assert [link for link, found in zip(local, there, strict=True) if not found] == []


def parsed(line: str) -> click.Context:
    """As click takes it, to the last option; nothing runs."""
    name, *rest = shlex.split(line)
    group: click.Command = main
    if name == "ray":
        from ray.scripts.scripts import cli as group
    context = group.make_context(name, rest)
    while isinstance(group, click.Group):
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        assert name is not None
        assert command is not None
        context, group = command.make_context(name, rest, parent=context), command
    return context


@functools.cache
def options_of(*program: str) -> str:
    return subprocess.check_output([sys.executable, *program, "--help"], cwd=BIN, text=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Ray imports
@pytest.mark.parametrize("line", COMMANDS, ids=range(len(COMMANDS)))
def test_every_command_is_one(line: str) -> None:
    program, *arguments = shlex.split(line)
    if program in ("advise-ray", "ray"):
        assert parsed(line).command.help
    elif program == "sbatch":  # which few machines have
        assert (ROOT / arguments[0]).is_file()
    else:
        script = [str(ROOT / arguments[0])] if program == "python" else ["-m", program, *subcommand(arguments)]
        assert all(each in options_of(*script) for each in arguments if each.startswith("--"))
    assert all((ROOT / each).is_file() for each in arguments if re.match(r"(jobs|cluster|tests)/", each))


def subcommand(arguments: list[str]) -> list[str]:
    """`server` of `mlflow server --host …`, and `models serve` of `mlflow models serve --port …`."""
    return list(itertools.takewhile(re.compile("[a-z]+").fullmatch, arguments))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("line", INLINE)
def test_every_command_within_a_sentence_is_one(line: str) -> None:
    """A sentence may name a command without all that it needs."""
    with contextlib.suppress(click.MissingParameter, click.exceptions.NoArgsIsHelpError):
        parsed(line)


@pytest.mark.parametrize("line", PLANNED, ids=range(len(PLANNED)))
def test_every_command_that_trains_can_be_planned(
    line: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = ROOT / "jobs" / "rates" / "one_h100.yaml"
    monkeypatch.chdir(tmp_path)
    shutil.copy(manifest, "clips.parquet")
    command = [word for word in shlex.split(line)[1:] if word != "--dry-run"]
    result = CliRunner().invoke(main, [*command, *set_options(OWN), "--dry-run", "--rates", str(rates), "--json"])
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["videos_to_encode"] == 24 if command[0] == "cache" else plan["train_videos"] in (14, 16)
    assert {"live_hours", "cached_hours", "cache_bytes"} <= plan["cost"].keys()
    assert [path.name for path in tmp_path.iterdir()] == ["clips.parquet"]


@pytest.mark.parametrize("line", SWEEPS, ids=range(len(SWEEPS)))
def test_every_sweep_can_be_planned(line: str) -> None:
    options = parsed(line).params
    assert settings_of(shared.load(options["recipe"], options["overrides"]))


def test_the_search_that_is_shown_holds(tmp_path: Path) -> None:
    (shown,) = blocks(GUIDE, "yaml")
    recipe = tmp_path / "sweep.yaml"
    recipe.write_text(shown)
    assert len(settings_of(load(recipe, ["model.tmm.out_dim=64"]))) == 4 * (1 + 2) * 2 * 2


def shortened(line: str) -> list[str]:
    command = shlex.split(line)
    settings: tuple[str, ...] = ()
    if command[1] in ("train", "tune", "cache") and "--resume" not in command:
        settings += SMALL
    if command[1] == "tune" and "--resume" not in command:
        settings += ('search={"model.sfu.spatial_size": {grid: [1, 2]}}',)
    return command + set_options(settings)


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}


@pytest.mark.full
def test_the_first_command_runs(tmp_path: Path) -> None:
    first = [*shlex.split(SET_UP.rsplit("/", 1)[1]), "--set", "train.epochs=1"]
    subprocess.run(first, cwd=tmp_path, env=environment(), check=True, timeout=300)


@pytest.mark.full
@pytest.mark.parametrize("document", RUN)
def test_every_command_runs(document: str, local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, where they are ours, which saves minutes."""
    monkeypatch.chdir(tmp_path)
    Path("jobs").symlink_to(ROOT / "jobs")  # one reads from the repository's folder
    for line in RUN[document]:
        command = shortened(line)
        if command[0] == "advise-ray":
            result = CliRunner().invoke(main, command[1:])
            assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
        else:
            subprocess.run(command, env=environment(), check=True, timeout=300)
    for example in blocks(document, "python"):
        subprocess.run([sys.executable, "-c", example + "assert embeddings.shape == (2, 64)"], cwd=tmp_path, check=True)
    for line in COMMANDS:
        if line.startswith("mlflow server ") and line in lines(document, "sh"):
            serves(line, tmp_path)


def serves(line: str, folder: Path) -> None:
    """The MLflow UI answers, from the folder that holds `runs`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["bash", "-c", "exec " + line.replace("5000", port)]
    server = subprocess.Popen(command, cwd=folder, env=environment(), start_new_session=True)
    try:
        eventually(lambda: answers(f"http://127.0.0.1:{port}/"), alive=server)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert "MLflow" in answer.read().decode()
    finally:
        os.killpg(server.pid, signal.SIGKILL)

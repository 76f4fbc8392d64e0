"""The command line that `--cluster` sends to a cluster. Nothing here starts Ray."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from advise_ray.cli.cluster_option import _arguments
from advise_ray.cli.main import main


def sent(*line: str) -> list[str]:
    ctx = main.make_context("advise-ray", list(line))
    name, command, rest = main.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
    assert isinstance(command, click.Command)
    with command.make_context(name, rest, parent=ctx) as own:
        return _arguments(own)[0]


@pytest.mark.parametrize("target", ["quickstart", "models:/advise-ray-prp@best", "s3://bucket/runs/first"])
def test_names_and_addresses_go_as_they_are(target: str, tmp_path: Path) -> None:
    assert target in sent("embed", target, "--videos", "clips", "--out", "out.parquet")


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = sent("--quiet", "embed", "runs/first", "--videos", "clips", "--out", "out.parquet")
    assert found[:3] == ["--quiet", "embed", f"{tmp_path}/runs/first"]
    assert {f"{tmp_path}/clips", f"{tmp_path}/out.parquet"} < set(found)


def test_paths_in_settings_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = sent("train", "--resume", "runs/first", "--set", "data.manifest=new.parquet", "--set", "train.epochs=9")
    assert {f"{tmp_path}/runs/first", f'data.manifest="{tmp_path}/new.parquet"', "train.epochs=9"} < set(found)


def test_settings_of_a_whole_section_go_key_by_key() -> None:
    found = sent("train", "--set", "train={epochs: 3}")
    assert "train.epochs=3" in found


def test_a_job_on_videos_chooses_its_settings_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job gets what the user has set, and nothing of a recipe."""
    monkeypatch.chdir(tmp_path)
    own = ("--set", "train={epochs: 3}", "--set", "data.clip.sample_fps=12")
    found = sent("train", "--videos", "clips", *own)
    assert found == ["train", *own, "--videos", f"{tmp_path}/clips", "--set", f'storage.path="{tmp_path}/runs"']


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("tune",), "give a recipe with a `search`"),
        (("train", "--resume", "runs/first", "--videos", "clips"), "remove --config and --videos"),
    ],
)
def test_misuse_is_told_before_a_cluster_is_brought_up(line: tuple[str, ...], said: str, tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("address: http://127.0.0.1:9\n")
    done = CliRunner().invoke(main, [*line, "--cluster", str(cluster)])
    assert done.exit_code == 2
    assert said in done.output

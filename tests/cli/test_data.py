"""`advise-ray data …` in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from advise_ray.cli.data import data
from advise_ray.cli.main import main
from advise_ray.video.layouts import LAYOUTS
from advise_ray.video.manifest import read_manifest
from advise_ray.video.synth import synthesize


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["data", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", ["index", "synth"])
def test_every_format_can_be_synthesized_and_indexed(command: str) -> None:
    (formats,) = (option.type.choices for option in data.commands[command].params if option.name == "layout")
    assert set(formats) == set(LAYOUTS)


def test_a_data_set_is_indexed_and_shown(local_ray: None, tmp_path: Path) -> None:
    synthesize(tmp_path, 8, seed=0, layout="diving48")
    out = str(tmp_path / "m.parquet")
    where = ["--format", "diving48", "--videos", str(tmp_path / "rgb"), "--annotations", str(tmp_path), "--out", out]
    code, stdout, _ = run("index", *where, "--json")
    assert code == 0
    summary = json.loads(stdout)
    assert (summary["videos"], summary["classes"]) == (8, 8)
    code, stdout, _ = run("index", *where)
    assert code == 0
    assert "splits: train listed 8, readable 8, missing 0" in stdout
    code, stdout, _ = run("stats", out, "--out", str(tmp_path / "report.html"), "--json")
    assert code == 0
    assert Path(json.loads(stdout)["report"]).stat().st_size > 10_000
    (tmp_path / "rgb" / "00003.mp4").write_bytes(b"")
    code, stdout, _ = run("check", out, "--drop", str(tmp_path / "clean.parquet"), "--json")
    assert code == 1
    assert json.loads(stdout)["first_problems"] == {"00003.mp4": "empty file"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--format", "ssv2"], "--format ssv2 needs --annotations"),
        (["--format", "folder", "--annotations", "lists"], "--format folder takes no --annotations"),
        (
            ["--format", "ssv2", "--annotations", "lists", "--split", "2"],
            "--split: --format ssv2 has no numbered splits",
        ),
        (["--format", "hmdb51", "--annotations", "lists"], "--annotations: no <class>_test_split1.txt in lists"),
        (
            ["--format", "diving48", "--annotations", "lists"],
            "cannot read the names of the dives, lists/Diving48_vocab",
        ),
    ],
)
def test_what_does_not_go_together_is_said(arguments: list[str], problem: str) -> None:
    code, stdout, stderr = run("index", "--videos", "v", "--out", "m.parquet", *arguments)
    assert (code, stdout) == (2, "")
    assert problem in stderr


def test_a_test_split_is_made_and_kept_in_the_manifest(local_ray: None, tmp_path: Path) -> None:
    synthesize(tmp_path, 12, seed=0, layout="ucf101")
    where = ["--format", "folder", "--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "m.parquet")]
    code, stdout, _ = run("index", *where, "--test-fraction", "0.5", "--group-by", r"_(g\d+)_", "--json")
    assert code == 0
    summary = json.loads(stdout)
    rows = read_manifest(tmp_path / "m.parquet").to_pylist()
    assert summary["splits"].keys() == {"train", "test"}
    assert {row["group"] for row in rows} == {row["video_id"].split("_")[2] for row in rows}
    assert all(sorted(row["official_splits"]) == ["test", "train"] for row in rows)
    code, _, stderr = run("index", *where, "--group-by", "g")
    assert code == 2
    assert "--group-by needs --test-fraction" in stderr

"""`init`: the recipe that it writes can be trained, and mistakes are told before anything is written. No Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from advise_ray import dataset
from advise_ray.backend import session
from advise_ray.cli.main import main
from advise_ray.config import Config, flatten, load
from advise_ray.errors import UsageError
from advise_ray.training import trainer
from advise_ray.video.manifest import SCHEMA, write_manifest

RATES = str(Path(__file__).parents[2] / "jobs" / "rates" / "one_h100.yaml")  # measured ones take seconds


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `videos.parquet` (forty videos of 2 s in two classes) and `plain.parquet` (without labels)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "connect", lambda: pytest.fail("the command would have started Ray"))
    (tmp_path / "000.mp4").touch()  # a plan asks whether there are files at all
    rows = [
        {**dict.fromkeys(SCHEMA.names), "video_id": f"{number:03}.mp4", "path": str(tmp_path / f"{number:03}.mp4")}
        | {"label": number % 2, "class_name": "ab"[number % 2], "num_frames": 60, "fps": 30.0, "duration_s": 2.0}
        | {"width": 640, "height": 360, "codec": "h264", "decoder": "decord", "stream_index": 0, "rotation_deg": 0}
        for number in range(40)
    ]
    write_manifest(rows, tmp_path / "videos.parquet")
    write_manifest([{**row, "label": None, "class_name": None} for row in rows], tmp_path / "plain.parquet")
    write_manifest([{**row, "label": 0, "class_name": "a"} for row in rows], tmp_path / "one.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "kept.yaml").write_text("seed: 1\n")
    return tmp_path


def init(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["init", *arguments])


@pytest.mark.parametrize("labels", [[], ["--labels"]])
def test_the_recipe_can_be_planned(labels: list[str]) -> None:
    written = init("--videos", "videos.parquet", "--out", "new/recipe.yaml", "--rates", RATES, *labels)
    assert written.exit_code == 0, written.output
    assert written.stdout == "new/recipe.yaml\n"
    plan = ["train", "--config", "new/recipe.yaml", "--dry-run", "--rates", RATES, "--json"]
    planned = CliRunner().invoke(main, plan)
    assert planned.exit_code == 0, planned.output
    summary = json.loads(planned.stdout)
    assert summary["classes"] == (2 if labels else 3)
    assert summary["val_videos"] > 0
    assert "advise-ray train --config new/recipe.yaml" in Path("new/recipe.yaml").read_text()


def test_each_choice_is_told_and_written_as_a_comment() -> None:
    told = init("--videos", "videos.parquet", "--out", "recipe.yaml", "--rates", RATES).stderr.splitlines()
    assert [line.split(":")[0] for line in told[:5]] == ["clips", "rates", "frames", "steps", "time"]
    text = " ".join(Path("recipe.yaml").read_text().replace("#", " ").split())
    assert all(line.split(": ", 1)[1][1:] in text for line in told[:5])
    assert told[-1].endswith("--labels --out finetune.yaml")


def test_more_hours_give_more_epochs() -> None:
    for hours in ("0.006", "1"):
        init("--videos", "videos.parquet", "--out", f"{hours}.yaml", "--rates", RATES, "--hours", hours)
    short, long = (load(f"{hours}.yaml").train.epochs for hours in ("0.006", "1"))
    assert 1 <= short < long == 100


def test_a_folder_is_trained_with_the_settings_of_init(monkeypatch: pytest.MonkeyPatch, workplace: Path) -> None:
    """Where the user sets no other value."""
    rates = yaml.safe_load(Path(RATES).read_text()) | {"use_gpu": False}
    (workplace / "rates.yaml").write_text(json.dumps(rates))
    init("--videos", "videos.parquet", "--out", "recipe.yaml", "--rates", "rates.yaml")
    trained: list[Config] = []

    def train_nothing(config: Config, **_: Any) -> None:
        trained.append(config)
        raise UsageError("nothing is trained")

    monkeypatch.setattr(dataset, "prepare", lambda *_, **__: workplace / "videos.parquet")
    monkeypatch.setattr(session, "connect_ahead", lambda: None)
    monkeypatch.setattr(session, "available_gpus", lambda: 0.0)
    monkeypatch.setattr(trainer, "train", train_nothing)
    told = CliRunner().invoke(main, ["train", "--videos", ".", "--set", "train.epochs=3"]).stderr.splitlines()
    names = [line.split(":")[0] for line in told if line]
    assert names == ["clips", "rates", "frames", "steps", "features", "error"]
    assert told[3].endswith("; changed by --set: train.epochs")
    ours, theirs = flatten(trained[0]), flatten(load("recipe.yaml"))
    assert {key for key in ours if ours[key] != theirs[key]} == {"train.epochs"}
    CliRunner().invoke(main, ["train", "--videos", ".", "--set", "data.clip.frame_stride=2", "--set", "task=action"])
    assert (trained[1].data.clip.frame_stride, trained[1].data.clip.sample_fps) == (2, None)
    assert (trained[1].task, trained[1].model.init_from) == ("action", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--videos=empty", "--out=a.yaml"], "the folder is empty"),
        (["--videos=none", "--out=a.yaml"], "none does not exist"),
        (["--videos=none.parquet", "--out=a.yaml"], "none.parquet does not exist"),
        (["--videos=plain.parquet", "--labels", "--out=a.yaml"], "--labels: the videos have no labels: put them into"),
        (["--videos=.", "--labels", "--out=a.yaml"], "--labels: the videos have no labels"),
        (["--videos=one.parquet", "--labels", "--out=a.yaml"], "--labels: all labels are 'a'; "),
        (["--videos=videos.parquet", "--out=kept.yaml"], "--out: kept.yaml exists and may have your changes"),
        (["--videos=videos.parquet", "--out=empty"], "--out: cannot write empty: Is a directory"),
        (["--videos=videos.parquet", "--out=a.yaml", "--rates=none"], "--rates: none cannot be read"),
        *((["--videos=videos.parquet", "--out=a.yaml", f"--hours={hours}"], f"{hours} is not a number of hours above 0")
          for hours in ("0", "-1", "nan", "inf")),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_line_before_anything_is_written(
    arguments: list[str], message: str, workplace: Path
) -> None:
    before = {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}
    result = init(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = (line for line in result.stderr.splitlines() if line.lower().startswith("error: "))
    assert message in line
    assert {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()} == before

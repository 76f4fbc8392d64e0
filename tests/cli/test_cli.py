"""The command line before any work starts: errors, plans and output. Nothing here starts Ray."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from advise_ray.backend import session
from advise_ray.cli import progress
from advise_ray.cli.main import main
from advise_ray.config import load
from advise_ray.video.manifest import read_manifest, write_manifest
from advise_ray.video.probe import probe
from advise_ray.video.synth import synthesize
from tests.runs import command, set_options

NUM_CPUS = len(os.sched_getaffinity(0))
MAKE = "make one with `advise-ray data index`"

Train = Callable[..., Result]
Refused = Callable[..., list[str]]


@pytest.fixture(scope="module")
def eight_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest, made without Ray: six videos for training, two for validation."""
    root = tmp_path_factory.mktemp("eight")
    synthesize(root, 8, seed=0)
    rows = [
        {
            "video_id": file.relative_to(root).as_posix(),
            "path": str(file),
            "split": "test" if file.parent.name in ("left", "right") else "train",
            **vars(probe(file)),
        }
        for file in sorted(root.rglob("*.mp4"))
    ]
    write_manifest(rows, root / "manifest.parquet")
    return root / "manifest.parquet"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own working directory, and no way to start Ray."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "connect", lambda: pytest.fail("the command would have started Ray"))
    monkeypatch.setattr(session, "connect_ahead", lambda: None)  # it only begins what connect would do
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def train(tiny: tuple[str, ...], eight_videos: Path) -> Train:
    """`advise-ray train` on the eight videos with more settings, and with options that begin with `--`."""

    def train(*settings: str) -> Result:
        options = [setting for setting in settings if setting.startswith("--")]
        overrides = [*tiny, f"data.manifest={eight_videos}", *(each for each in settings if each not in options)]
        return run("train", *options, *set_options(overrides))

    return train


def files_in(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def refused(workplace: Path) -> Refused:
    """What a command that cannot be done as asked says; it leaves nothing behind."""

    def refused(command: Callable[..., Result], *arguments: str) -> list[str]:
        before = files_in(workplace)
        result = command(*arguments)
        assert result.exit_code == 2, result.output
        assert isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.stderr
        assert result.stdout == ""
        assert files_in(workplace) == before
        return [line.removeprefix("error: ") for line in result.stderr.splitlines() if line.startswith("error: ")]

    return refused


# What is refused


@pytest.mark.parametrize(
    ("settings", "errors"),
    [
        (["optim.lrr=1"], ["optim.lrr: unknown key; did you mean optim.lr?"]),
        (
            ["optim.lr=-1", "sead=3"],
            ["optim.lr: Input should be greater than 0, got -1", "sead: unknown key; did you mean seed?"],
        ),
        (["data.train_split=all"], ["data.train_split: no video has split 'all'; the manifest has test, train"]),
        (["data.manifest=null", "--config=quickstart"], [f"data.manifest: required; {MAKE}, or use `--videos DIR`"]),
    ],
)
def test_a_setting_that_does_not_hold(refused, train, settings, errors):
    assert refused(train, *settings) == errors


def no_columns(path: Path, manifest: Path) -> None:
    pq.write_table(pq.read_table(manifest).drop_columns(["num_frames", "codec"]), path)


def no_rows(path: Path, manifest: Path) -> None:
    pq.write_table(pq.read_table(manifest).slice(0, 0), path)


def no_videos(path: Path, manifest: Path) -> None:
    table = read_manifest(manifest)
    gone = pa.array([f"/gone/{video_id}" for video_id in table.column("video_id").to_pylist()])
    pq.write_table(table.set_column(table.column_names.index("path"), "path", gone), path)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path, _: None, f"{{path}} does not exist; {MAKE}"),
        (lambda path, _: path.write_text("path,label\n"), "{path} is not a Parquet file ("),
        (no_rows, "{path} has no videos"),
        (no_columns, f"{{path}} lacks the columns num_frames, codec; {MAKE}"),
        (
            no_videos,
            "none of its videos (6) exists, such as /gone/clockwise/00004.mp4; if they were moved, run",
        ),
    ],
    ids=["missing", "not parquet", "empty", "columns", "videos gone"],
)
def test_a_manifest_that_cannot_be_trained_on(refused, train, eight_videos, workplace, make, error):
    make(workplace / "manifest.parquet", eight_videos)
    (said,) = refused(train, "data.manifest=manifest.parquet")
    assert said.startswith("data.manifest: " + error.format(path=workplace / "manifest.parquet"))


def test_weights_that_the_image_model_does_not_have(refused, train):
    (said,) = refused(train, "model.ifm={name: 'open_clip:ViT-B-32', weights: nonsense}")
    assert said.startswith(
        "model.ifm.weights: 'nonsense' is neither a tag of this model nor a file; allowed: a tag (this model has openai"
    )
    assert said.endswith("), a file, `package:NAME`, or `none` for random weights")


def test_more_workers_than_the_cpus_can_be_split_among(refused, train):
    workers = 4 * NUM_CPUS
    (said,) = refused(
        train,
        f"train={{num_workers: {workers}, global_batch_size: {2 * workers}, use_gpu: false}}",
        "data.num_decode_actors=1",
    )
    assert said.startswith(
        f"train.num_workers: {workers} workers and {workers} decode actors need {2 * NUM_CPUS} CPUs, "
        f"there are {NUM_CPUS}; at most {2 * NUM_CPUS} workers with a decode actor each, or "
    )


def test_a_run_directory_that_exists_is_not_overwritten(refused, train, workplace):
    there = workplace / "runs" / "there"
    there.mkdir(parents=True)
    assert refused(train, "tracking.run_name=there") == [
        f"{there} exists; resume it with `advise-ray train --resume {there}`, or choose another tracking.run_name"
    ]


@pytest.mark.parametrize("name", ["other", "none"])
def test_only_a_run_can_be_resumed(refused, workplace, name):
    (workplace / "other").mkdir()
    assert refused(run, "train", "--resume", name) == [
        f"--resume: {workplace / name} is not a run directory (it has no config.yaml)"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--resume", "runs/a", "--config", "quickstart"],
            "--resume uses the run's own configuration; remove --config and --videos",
        ),
        (
            ["train", "--resume", "runs/a", "--dry-run"],
            "--resume has no --dry-run; use --config runs/a/config.yaml --dry-run",
        ),
        (["train", "--dry-run"], f"--dry-run needs data.manifest; {MAKE}"),
        (
            ["train", "--videos", ".", "--set", "data.manifest=a.parquet"],
            "--videos and data.manifest are two data sets; give only one",
        ),
        (["data", "index", "--format=list", "--videos=.", "--out=a.parquet"], "--format list needs --annotations"),
    ],
)
def test_options_that_contradict_each_other(refused, arguments, message):
    assert refused(run, *arguments) == []
    assert run(*arguments).stderr.splitlines()[-1] == f"Error: {message}"


def test_index_says_what_is_wrong_with_the_folder_or_the_list(refused, workplace):
    index = ["data", "index", "--out=a.parquet", "--videos"]
    assert refused(run, *index, "none", "--format=folder") == [f"--videos: {workplace}/none does not exist"]
    assert refused(run, *index, ".", "--format=list", "--annotations=none") == ["--annotations: none does not exist"]


# What is planned


def test_a_dry_run_prints_the_plan_as_json_and_does_nothing(train, workplace):
    rates = Path(__file__).parents[2] / "jobs" / "rates" / "one_h100.yaml"  # measured ones take seconds
    result = train("--dry-run", f"--rates={rates}", "--json", "train.epochs=3")
    assert (result.exit_code, result.stderr) == (0, "")
    plan = json.loads(result.stdout)
    assert (plan["train_videos"], plan["val_videos"], plan["classes"]) == (6, 2, 3)
    assert (plan["clips_per_step"], plan["steps_per_epoch"], plan["steps"], plan["val_clips"]) == (8, 2, 6, 6)
    assert plan["clip_bytes"] == 4 * 120 * 160 * 3
    assert plan["parameters_trained"] > 0
    assert plan["notes"] == []
    assert files_in(workplace) == {}


def test_a_plan_for_people_says_what_to_know_first(train):
    result = train("--dry-run", "data.val_split=none", "data.val_fraction=0")
    assert result.exit_code == 0
    assert "train videos: 6\n" in result.stdout
    assert result.stderr == (
        "note: there are no validation videos (data.val_split, data.val_fraction): val/top1 will be absent\n"
    )


# What is shown


def test_what_config_show_prints_is_a_recipe(workplace):
    settings = ["optim.lr=1e-3", "data.clip.rates=[1, 3]", "model.ifm.weights=none"]
    result = run("config", "show", "--config", "quickstart", *(f"--set={setting}" for setting in settings))
    (workplace / "shown.yaml").write_text(result.stdout)
    shown = load(workplace / "shown.yaml")
    assert (shown.optim.lr, shown.data.clip.rates, shown.model.ifm.weights) == (0.001, (1, 3), "none")
    assert shown.train.epochs == 30  # of the recipe
    assert run("config", "show", "--config", "shown.yaml").stdout == result.stdout


def test_the_schema_is_json_schema_with_the_meaning_of_each_key():
    schema = json.loads(run("config", "schema").stdout)
    assert schema["properties"]["seed"]["description"] == "Seed of all random numbers."
    assert schema["$defs"]["OptimConfig"]["properties"]["lr"]["exclusiveMinimum"] == 0
    assert "\n| key | type | default | meaning |\n" in run("config", "schema", "--markdown").stdout


PRINT_MODULES = """
import sys
from advise_ray.cli.main import main
for arguments in {commands}:
    main(arguments, standalone_mode=False)
print("modules", *sys.modules)
"""


def modules_after(*commands: list[str]) -> set[str]:
    code = PRINT_MODULES.format(commands=list(commands))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(process.stdout.splitlines()[-1].split())


def test_help_is_there_at_once():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    commands = [[], ["train"], ["data"], ["data", "index"], ["data", "synth"], ["config", "show"], ["doctor"]]
    loaded = modules_after(*([*command, "--help"] for command in commands))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert loaded.isdisjoint({"torch", "ray", "mlflow", "numpy", "pyarrow", "pydantic"})
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_showing_the_configuration_loads_nothing_heavy():
    loaded = modules_after(["config", "show"], ["config", "schema"])
    assert loaded.isdisjoint({"torch", "ray", "mlflow", "numpy", "pyarrow"})


def test_in_a_log_progress_is_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.counting("encoding") as on_progress:
        for done in range(201):
            on_progress(done, 200)
    assert capsys.readouterr().err.splitlines() == [f"encoding: {done} of 200" for done in range(20, 201, 20)]


def test_text_is_utf_8_in_any_locale(tmp_path: Path) -> None:
    """A locale without Unicode changes neither what is read nor whether the command ends well."""
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    recipe = tmp_path / "recipe_é.yaml"
    recipe.write_text("storage: {path: été ×}\n", encoding="utf-8")
    shown = subprocess.run(
        [*command("config", "show", "--config"), recipe], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "storage:" in shown.stdout


def test_what_other_threads_print_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray prints its warnings in a thread, at any time."""

    def weights_are_here(_model: object) -> bool:
        thread = threading.Thread(target=print, args=("(raylet) a warning",))
        thread.start()
        thread.join()
        return True

    monkeypatch.setattr("advise_ray.model.catalogue.weights_are_here", weights_are_here)
    shown = run("models", "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["image_models"]
    assert "(raylet) a warning" in shown.stderr


def test_what_is_printed_while_the_process_ends_is_no_result():
    """Ray prints the last lines of its workers when it shuts down."""
    program = (
        "import atexit; from advise_ray.cli.main import main\n"
        "atexit.register(print, '(RayTrainWorker) a last line'); main(['models', '--json'])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["image_models"]
    assert "a last line" in shown.stderr

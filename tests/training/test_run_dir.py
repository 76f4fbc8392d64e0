"""The directory of a run: creation, moving, and the keys that a resumed run may change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from advise_ray.config import Config, load
from advise_ray.errors import ConfigError, UsageError
from advise_ray.training.run_dir import create, locked, read_config, resumed_config

Configured = Callable[..., Config]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a manifest, features, weights and a run that uses them."""
    project = tmp_path / "project"
    (project / "features").mkdir(parents=True)
    for name in ("videos.parquet", "more.parquet", "weights.pt"):
        (project / name).write_bytes(b"")
    create(_config(project, f"data.features={project / 'features'}", "train.epochs=5"))
    return project


def _config(project: Path, *more: str) -> Config:
    own = (f"storage.path={project / 'runs'}", f"data.manifest={project / 'videos.parquet'}", "tracking.run_name=first")
    return load(None, [*own, f"model.ifm.weights={project / 'weights.pt'}", *more])


def test_runs_without_a_name_never_share_a_directory(tmp_path: Path) -> None:
    made = [create(load(None, [f"storage.path={tmp_path / 'runs'}"])) for _ in range(4)]
    assert len(set(made)) == 4
    assert all((run_dir / "config.yaml").is_file() for run_dir in made)


def test_of_two_runs_with_one_name_the_second_is_refused(project: Path) -> None:
    with pytest.raises(UsageError, match=r"runs/first exists; resume it with .*, or choose another tracking.run_name"):
        create(_config(project))


def test_two_commands_do_not_train_in_one_directory(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UsageError, match="another command trains in"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_storage_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"storage.path: cannot create .*file/runs/.*: Not a directory"):
        create(load(None, [f"storage.path={tmp_path / 'file' / 'runs'}"]))


def test_a_run_that_stayed_has_its_own_configuration(project: Path) -> None:
    run_dir = project / "runs" / "first"
    assert read_config(run_dir) == load(run_dir / "config.yaml")


def test_paths_follow_a_project_that_was_moved(project: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    project.rename(moved)
    config = read_config(moved / "runs" / "first")
    assert config.storage.path == str(moved / "runs")
    assert config.data.manifest == str(moved / "videos.parquet")
    assert config.data.features == str(moved / "features")
    assert config.model.ifm.weights == str(moved / "weights.pt")


def test_a_run_that_leaves_its_project_stays_in_its_mlflow_store(project: Path, tmp_path: Path) -> None:
    (project / "runs" / "mlflow.db").touch()
    alone = (project / "runs" / "first").rename(tmp_path / "alone")
    assert read_config(alone).tracking.uri == f"sqlite:///{project / 'runs' / 'mlflow.db'}"
    (project / "runs" / "mlflow.db").rename(tmp_path / "mlflow.db")
    assert read_config(alone).tracking.uri is None


def test_paths_that_still_exist_stay(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "runs" / "first"
    shutil.copytree(project / "runs" / "first", copy)
    config = read_config(copy)
    assert config.storage.path == str(copy.parent)
    assert config.data.manifest == str(project / "videos.parquet")


def test_each_manifest_of_a_pool_is_found(project: Path, tmp_path: Path) -> None:
    pool = f"data.manifest=[{project / 'videos.parquet'}, {project / 'more.parquet'}]"
    create(_config(project, pool, "tracking.run_name=pool"))
    project.rename(tmp_path / "new")
    (tmp_path / "new" / "more.parquet").unlink()
    manifests = read_config(tmp_path / "new" / "runs" / "pool").data.manifests
    assert manifests == (tmp_path / "new" / "videos.parquet", project / "more.parquet")


@pytest.mark.parametrize(
    "override",
    ["data.manifest=/other/m.parquet", "tracking.uri=http://127.0.0.1:1", "train.num_workers=2", "train.use_gpu=false"],
)
def test_a_resumed_run_can_be_told_other_places_and_machines(project: Path, override: str) -> None:
    changed = resumed_config(project / "runs" / "first", [override], finished_epochs=0)
    assert changed == load(project / "runs" / "first" / "config.yaml", [override])


@pytest.mark.parametrize(
    ("override", "is_finished", "message"),
    [
        ("seed=1", False, "seed: a resumed run keeps its value, 0; for another value start a new run"),
        ("optim.lr=1", True, "optim.lr: a resumed run keeps its value, 0.001; for another value start a new run"),
        ("tracking.run_name=b", False, "tracking.run_name: a resumed run keeps its value, first; .*"),
        ("storage.path=/other", False, "storage.path: the run is in .*/runs; move the run's directory instead"),
        ("train.epochs=4", True, "train.epochs: the run has 5, which can be raised, but not lowered; .*"),
        ("train.epochs=9", False, r"train.epochs: .* depend on it \(.*\); finish the run's 5 .*"),
    ],
)
def test_what_would_be_another_run_is_refused(project: Path, override: str, is_finished: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        resumed_config(project / "runs" / "first", [override], finished_epochs=5 if is_finished else 0)


def test_a_finished_run_may_get_more_epochs_and_hears_of_its_learning_rate(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = project / "runs" / "first"
    assert resumed_config(run_dir, ["train.epochs=9"], finished_epochs=5).train.epochs == 9
    assert "those of 9 epochs, so the rate jumps" in caplog.text


def test_a_warm_up_that_was_cut_depends_on_the_epochs(project: Path) -> None:
    warms = ("optim.schedule=constant", "optim.warmup_epochs=6", "train.epochs=5", "tracking.run_name=warms")
    with pytest.raises(ConfigError, match="depend on it"):
        resumed_config(create(_config(project, *warms)), ["train.epochs=9"], finished_epochs=0)


def test_with_a_constant_learning_rate_any_run_may_get_more_epochs(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = create(_config(project, "optim.schedule=constant", "tracking.run_name=constant", "train.epochs=5"))
    assert resumed_config(run_dir, ["train.epochs=9"], finished_epochs=0).train.epochs == 9
    assert not caplog.text

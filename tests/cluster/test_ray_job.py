"""Commands as jobs on an existing cluster: a real head in separate processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.heads import running_head
from tests.runs import command, eventually_step, losses, start


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    with running_head(num_cpus=2) as address:
        path.write_text(f"address: {address}\n")
        yield path


def run(*arguments: str, cluster: Path, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    line = command(*arguments, "--cluster", str(cluster))
    return subprocess.run(line, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True)


def recipe(tmp_path: Path, manifest: Path, tiny: tuple[str, ...], *more: str) -> Path:
    from advise_ray.config import load, to_yaml

    path = tmp_path / "recipe.yaml"
    where = (f"data.manifest={manifest}", f"storage.path={tmp_path}/runs")
    path.write_text(to_yaml(load(None, [*tiny, *where, *more])))
    return path


def test_a_training_runs_there_and_its_result_comes_back(
    cluster: Path, manifest: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    path = recipe(tmp_path, manifest, tiny, "secrets=[PASSWORD_OF_MINE]")
    done = run(
        *("train", "--config", path.name, "--set", "storage.path=runs", "--set", "tracking.run_name=there", "--json"),
        cluster=cluster,
        cwd=tmp_path,
        env={"PASSWORD_OF_MINE": "h0rse"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["run_dir"] == str(tmp_path / "runs" / "there")
    assert json.loads((tmp_path / "runs" / "there" / "result.json").read_text())["status"] == "FINISHED"
    assert "preflight: 1 node(s) agree" in done.stderr
    assert "epoch" in done.stderr  # the job's own lines, as they came
    everything = done.stderr + done.stdout + (tmp_path / "runs" / "there" / "config.yaml").read_text()
    assert "h0rse" not in everything


@pytest.mark.full
def test_a_failed_job_has_its_exit_code_and_its_words(cluster: Path, tmp_path: Path) -> None:
    done = run("data", "check", "nowhere.parquet", cluster=cluster, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(rf"^error: .*{tmp_path}/nowhere.parquet", done.stderr, flags=re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.full
def test_what_is_unreachable_is_told_before_any_work(
    cluster: Path, manifest: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    path = recipe(tmp_path, manifest, tiny, "tracking.uri=http://127.0.0.1:9")
    done = run("train", "--config", str(path), cluster=cluster, cwd=tmp_path)
    assert done.returncode == 1
    assert "tracking.uri: cannot log to http://127.0.0.1:9" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_secret_that_is_not_set_here(cluster: Path, manifest: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    path = recipe(tmp_path, manifest, tiny, "secrets=[NOT_SET_ANYWHERE]")
    done = run("train", "--config", str(path), cluster=cluster, cwd=tmp_path)
    told = "error: secrets: NOT_SET_ANYWHERE: not set in this environment; set it, or remove it from secrets\n"
    assert (done.returncode, done.stderr) == (2, told)


@pytest.mark.full
def test_a_job_that_is_left_to_itself(cluster: Path, manifest: Path, tmp_path: Path) -> None:
    from ray.job_submission import JobStatus

    from advise_ray.cluster import ray_job

    done = run("data", "check", str(manifest), "--out", "rejects.parquet", "--detach", cluster=cluster, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    client = ray_job.connect(cluster.read_text().split()[1])
    said: list[str] = []
    code, _ = ray_job.follow(client, done.stdout.strip(), said.append)
    assert (code, client.get_job_status(done.stdout.strip())) == (0, JobStatus.SUCCEEDED)
    assert (tmp_path / "rejects.parquet").exists(), said


@pytest.mark.full
def test_ctrl_c_leaves_the_job_unless_it_is_told_to_stop_it(
    cluster: Path, manifest: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    from advise_ray.cluster import ray_job

    own = ("train.epochs=500", "train.checkpoint_every_epochs=500", "tracking.run_name=long")
    path = recipe(tmp_path, manifest, tiny, *own)
    process = start(
        *("train", "--config", str(path), "--cluster", str(cluster)),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=None,
    )
    run_dir = tmp_path / "runs" / "long"
    eventually_step(run_dir, 6, alive=process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate("y\n", timeout=120)
    assert process.returncode == 130, said
    assert "Stop job" in said
    assert "interrupted; the job has stopped" in said
    ended = json.loads((run_dir / "result.json").read_text())
    assert (ended["status"], ended["steps"]) == ("KILLED", len(losses(run_dir)))  # it had the time to save
    (job_id,) = [line.split()[1] for line in said.splitlines() if line.startswith("job ")]
    assert ray_job.connect(cluster.read_text().split()[1]).get_job_status(job_id).is_terminal()


def test_a_head_whose_python_has_no_ray_is_told() -> None:
    repository = Path(__file__).parents[2]
    command = [sys.executable, "-S", "-m", "advise_ray.cli.on_head", "{}", "train"]  # -S: no installed packages
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: the python of the cluster's head ({sys.executable}) has no Ray; put ")


def test_nobody_at_the_address(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("address: http://127.0.0.1:9\n")
    done = run("data", "check", "x.parquet", cluster=path, cwd=tmp_path)
    assert done.returncode == 1
    assert "error: http://127.0.0.1:9: no Ray job server answers there" in done.stderr
    assert "Traceback" not in done.stderr

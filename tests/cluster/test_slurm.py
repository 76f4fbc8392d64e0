"""`cluster/slurm.sbatch` on a real Slurm."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from advise_ray.config import load, to_yaml
from tests.cluster.slurm import Slurm, running_slurm, why_not
from tests.runs import eventually, eventually_step, losses

pytestmark = pytest.mark.full
SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm.sbatch"


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if (lacking := why_not()) is not None:
        pytest.skip(lacking)
    with running_slurm() as running:
        yield running


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The file that comes with the project, for these nodes: one CPU of each, no GPU."""
    changes = {
        "--cpus-per-task=16": "--cpus-per-task=1",
        "#SBATCH --gpus-per-task=1": "#",
        'source "$HOME/venv/bin/activate"': f"export PATH={Path(sys.executable).parent}:$PATH",
    }
    text = SCRIPT.read_text()
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = tmp_path / "slurm.sbatch"
    path.write_text(text)
    return path


@pytest.fixture
def recipe(tiny: tuple[str, ...], manifest: Path, features: Path, tmp_path: Path) -> Path:
    """A worker on each node."""
    own = (f"data.manifest={manifest}", f"data.features={features}", "data.deterministic=true")
    own += ("train.epochs=300", "train.checkpoint_every_epochs=300", "train.num_workers=2", "train.cpus_per_worker=0.9")
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(load(None, [*tiny, *own])))
    return path


def test_two_jobs_on_the_same_nodes_and_one_runs_out_of_time(slurm: Slurm, script: Path, recipe: Path) -> None:
    """It saves, is queued again and goes on by itself; of the other nothing is touched."""
    first, second = (slurm.submit(script, str(recipe), name) for name in ("first", "second"))
    runs = script.parent / "runs"
    for name in ("first", "second"):
        eventually_step(runs / name, 6)
    slurm.do("scancel", "--batch", "--signal=USR1", first)  # as Slurm does before the end of the time
    eventually(lambda: slurm.job(first)["Restarts"] == "1")
    stopped = json.loads((runs / "first" / "result.json").read_text())
    assert (stopped["status"], stopped["steps"]) == ("KILLED", len(losses(runs / "first")))
    for job, name in ((second, "second"), (first, "first")):
        eventually(lambda job=job: slurm.job(job)["JobState"] not in ("RUNNING", "PENDING", "COMPLETING", "REQUEUED"))
        said = (script.parent / f"{job}.log").read_text()
        assert (slurm.job(job)["JobState"], slurm.job(job)["ExitCode"]) == ("COMPLETED", "0:0"), said
        assert json.loads((runs / name / "result.json").read_text())["status"] == "FINISHED"
    assert losses(runs / "first") == pytest.approx(losses(runs / "second"), rel=1e-3)
    assert said.count("preflight: 2 node(s) agree") == 2  # the log of both of its lives
    assert not list(Path("/tmp").glob("ray-??????/session_*"))


def test_a_folder_that_the_nodes_do_not_share(slurm: Slurm, script: Path, recipe: Path) -> None:
    """Told in a line before anything starts, and the job has the command's exit code."""
    script.write_text(script.read_text().replace("run=$PWD/runs/", f"run={slurm.unshared}/"))
    job = slurm.submit(script, str(recipe))
    eventually(lambda: slurm.job(job)["JobState"] == "FAILED")
    assert slurm.job(job)["ExitCode"] == "2:0"
    said = (script.parent / f"{job}.log").read_text()
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "storage.path is not shared: a file of the head does not exist" in line


def test_a_node_without_ray(slurm: Slurm, script: Path, recipe: Path) -> None:
    """The job ends, and does not wait for a head until its time is up."""
    script.write_text(script.read_text().replace("until ray start", "until no-such-command start"))
    job = slurm.submit(script, str(recipe))
    eventually(lambda: slurm.job(job)["JobState"] == "FAILED")
    assert slurm.job(job)["ExitCode"] == "1:0"
    said = (script.parent / f"{job}.log").read_text()
    assert "no-such-command: command not found" in said
    assert "error: Ray does not start on n1" in said

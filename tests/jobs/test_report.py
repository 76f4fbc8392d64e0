from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from advise_ray.config import load, to_yaml

ROOT = Path(__file__).parents[2]


def make_run(root: Path, name: str, lr: float, top1: float) -> Path:
    run = root / name
    (run / "evaluation" / "knn").mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(load(None, [f"optim.lr={lr}"])))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "epoch": 0, "values": {"val/top1": top1}}) + '\n{"torn')
    (run / "result.json").write_text(json.dumps({"status": "FINISHED", "metrics": {"val/top1": top1}}))
    (run / "evaluation" / "knn" / "result.json").write_text(json.dumps({"metrics": {"top1": 0.25}}))
    return run


def report(*runs: Path, out: Path) -> str:
    command = [sys.executable, "jobs/report.py", *map(str, runs), "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return out.read_text()


def test_a_comparison_shows_what_differs_and_who_is_best(tmp_path: Path) -> None:
    page = report(make_run(tmp_path, "a<b", 0.1, 0.5), make_run(tmp_path, "c", 0.2, 0.75), out=tmp_path / "page.html")
    assert "<td class=best>0.75</td>" in page
    assert "<code>optim.lr</code></td><td>0.1</td><td>0.2</td>" in page
    assert "optim.weight_decay" not in page
    assert "knn: top1" in page
    assert "a&lt;b" in page
    assert "a<b" not in page
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in page  # it loads nothing


def test_a_single_run_shows_all_of_its_settings(tmp_path: Path) -> None:
    page = report(make_run(tmp_path, "only", 0.1, 0.5), out=tmp_path / "page.html")
    assert "optim.weight_decay" in page


def listed(folder: Path) -> str:
    subprocess.run([sys.executable, "jobs/report.py", str(folder)], cwd=ROOT, check=True, capture_output=True)
    return (folder / "index.html").read_text()


def test_the_list_has_every_run_and_a_link_to_the_page_of_each(tmp_path: Path) -> None:
    first, _ = make_run(tmp_path, "a<b #1", 0.1, 0.5), make_run(tmp_path, "c", 0.2, 0.75)
    trial = make_run(tmp_path, "sweep/trials/0001", 0.1, 0.25)
    (trial / "result.json").unlink()
    (trial / "trial.json").write_text('{"status": "PRUNED"}')
    (make_run(tmp_path, "torn", 0.1, 0.5) / "config.yaml").write_text("a: [")
    subprocess.run([sys.executable, "jobs/report.py", str(first)], cwd=ROOT, check=True, capture_output=True)
    page = listed(tmp_path)
    assert page.count("<tr>") == 1 + 4
    assert '<a href="a%3Cb%20%231/">a&lt;b #1</a> <a href="a%3Cb%20%231/report.html">report</a>' in page
    assert "a<b" not in page
    assert "PRUNED" in page
    assert "damaged" in page
    assert '<td data-key="0.75">0.75</td>' in page
    assert "http" not in page


def test_a_trial_goes_on_as_long_as_its_sweep(tmp_path: Path) -> None:
    sweep = make_run(tmp_path, "sweep", 0.1, 0.5)
    trial = make_run(tmp_path, "sweep/trials/0001", 0.1, 0.25)
    (trial / "result.json").unlink()
    (trial / "settings.json").write_text("{}")
    note = {"time_s": time.time(), "total_steps": 2, "waiting": None, "nodes": []}
    (sweep / "status.json").write_text(json.dumps(note))
    (sweep / "result.json").write_text(json.dumps({"status": "KILLED", "ended_s": time.time() - 90, "metrics": {}}))
    assert listed(tmp_path).count("RUNNING") == 2 * 2  # it was resumed; each cell also has the value to sort by
    (sweep / "result.json").write_text(json.dumps({"status": "KILLED", "ended_s": time.time(), "metrics": {}}))
    assert listed(tmp_path).count("KILLED") == 2 * 2


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "jobs/report.py", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path} has no runs (folders with a config.yaml), and is not a run itself\n"

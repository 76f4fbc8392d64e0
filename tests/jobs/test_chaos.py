"""One fault; `jobs/chaos.py` has all. What dies, workers, nodes, drivers and servers, is in other tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from advise_ray.config import load
from advise_ray.training.local import train_here

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def chaos() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chaos", Path(__file__).parents[2] / "jobs" / "chaos.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["chaos"] = module
    spec.loader.exec_module(module)
    return module


def test_a_run_that_a_full_disk_has_ended_goes_on_as_if_nothing_had_been(
    chaos: ModuleType, manifest: Path, tmp_path: Path
) -> None:
    case = chaos.Case(tmp_path, manifest, "disk", "mid_epoch")
    row = case.run()
    if row.get("passed", True) is None:
        pytest.skip(f"a small disk: {row['why']}")
    log = (case.folder / "driver.log").read_text()
    ended, went_on = row["exit_codes"]
    assert (ended, went_on, row["status"]) == (1, 0, "FINISHED"), log
    assert "No space left on device" in log
    assert "Traceback" not in log
    undisturbed = chaos.Case(tmp_path, manifest, "none", "never")
    train_here(load(undisturbed.recipe))
    undisturbed.clips = chaos.last_clips(undisturbed.run_dir)
    undisturbed.metrics = chaos.train_lines(undisturbed.run_dir)
    assert chaos.compare(case, row, undisturbed)["problems"] == []

"""Each kind of fault at one moment of a run; `jobs/chaos.py` has three moments for each."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from advise_ray.config import load
from advise_ray.training.local import train_here

pytestmark = pytest.mark.full

CASES = {
    "decode_actor": "mid_epoch",
    "train_worker": "checkpoint",
    "node": "mid_epoch",
    "driver": "checkpoint",
    "controller": "mid_epoch",
    "tracking_server": "start",
    "storage": "mid_epoch",
    "disk": "mid_epoch",
}


STRUCK = {
    "driver": (-9, ""),
    "controller": (1, "the run's controller died"),
    "disk": (1, "No space left on device"),
}


@pytest.fixture(scope="module")
def chaos() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chaos", Path(__file__).parents[2] / "jobs" / "chaos.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["chaos"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def undisturbed(chaos: ModuleType, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    case = chaos.Case(tmp_path_factory.mktemp("chaos"), manifest, "none", "never")
    train_here(load(case.recipe))
    case.clips, case.metrics = chaos.last_clips(case.run_dir), chaos.train_lines(case.run_dir)
    return case


@pytest.mark.parametrize("kind", CASES)
def test_a_run_goes_on_as_if_nothing_had_been(
    chaos: ModuleType, undisturbed: Any, manifest: Path, tmp_path: Path, kind: str
) -> None:
    case = chaos.Case(tmp_path, manifest, kind, CASES[kind])
    row = case.run()
    if row.get("passed", True) is None:
        pytest.skip(f"a small disk: {row['why']}")
    log = (case.folder / "driver.log").read_text()
    assert chaos.compare(case, row, undisturbed)["problems"] == [], log[-3000:]
    if kind in STRUCK:  # the fault has struck: the first command ended so
        code, said = STRUCK[kind]
        assert row["exit_codes"] == [code, 0]
        assert said in log
    if kind == "disk":
        assert "Traceback" not in log

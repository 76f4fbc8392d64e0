"""Some faults; `jobs/chaos.py` has all. What dies, workers, nodes, drivers and servers, is in other tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]
CASES = dict.fromkeys(("storage", "disk"), "mid_epoch")


@pytest.fixture(scope="module")
def chaos():
    spec = importlib.util.spec_from_file_location("chaos", Path(__file__).parents[2] / "jobs" / "chaos.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["chaos"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def undisturbed(chaos, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("chaos")
    case = chaos.Case(root, chaos.make_manifest(root), "none", "never")
    assert case.run()["status"] == "FINISHED"
    return root, case


@pytest.mark.parametrize("kind", CASES)
def test_a_run_survives(chaos, undisturbed, kind: str) -> None:
    root, reference = undisturbed
    case = chaos.Case(root, root / "manifest.parquet", kind, CASES[kind])
    row = case.run()
    if row.get("passed", True) is None:
        pytest.skip(f"{kind}: {row['why']}")
    assert chaos.compare(case, row, reference)["problems"] == []

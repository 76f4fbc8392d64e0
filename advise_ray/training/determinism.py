"""Deterministic kernels of torch, and the operations of a run that have none."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch

log = logging.getLogger("advise_ray")


def use_deterministic_kernels(wanted: bool) -> None:
    """Let torch use deterministic kernels where it has them, or the fastest ones. Call it before a GPU computes."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    torch.backends.cudnn.benchmark = not wanted  # it tries the kernels of each convolution once
    torch.use_deterministic_algorithms(wanted, warn_only=True)


@contextlib.contextmanager
def noting_others(operations: list[str]) -> Iterator[None]:
    """Add to `operations` once each operation that has no deterministic form, instead of torch's warnings."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Warning | str, *where: Any, **how: Any) -> None:
            text = str(message)
            if "determinis" not in text:
                show(message, *where, **how)
                return
            named = re.match(r"(\S+) does not have a deterministic implementation", text)
            operation = named[1] if named else text.partition(". ")[0]
            if operation not in operations:
                operations.append(operation)

        warnings.filterwarnings("always", message=".*determinis", category=UserWarning)
        warnings.showwarning = note
        yield


def tell(operations: list[str]) -> None:
    """Log a note if a run with `data.deterministic` used operations that have no deterministic form."""
    if operations:
        log.warning(
            "note: data.deterministic: another run may differ slightly, because torch has no deterministic form of: %s",
            ", ".join(operations),
        )

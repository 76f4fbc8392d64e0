"""Reads the tensors of checkpoints: state dicts, and what training programs save around them."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advise_ray.errors import ConfigError

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Parts of names that torch.compile, FSDP and activation checkpointing insert, anywhere in a name."""
_scalar = np.float64(0).__reduce__()[0]
PLAIN: list[Any] = [
    argparse.Namespace,  # the options of timm, MAE and DINO
    pathlib.PosixPath,
    (pathlib.PosixPath, "pathlib._local.PosixPath"),  # written by Python 3.13
    _scalar,  # metrics
    (_scalar, "numpy.core.multiarray.scalar"),  # written by NumPy 1
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float32", "float64", "int64")),
]
"""Types beside tensors that `torch.load(weights_only=True)` may create. They only hold data."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file.

    Attributes:
        tensors: all tensors by their dotted names, such as `state_dict.module.conv.weight`.
        places: the prefix of each dictionary that has tensors, such as `state_dict.`; "" is the outermost.
    """

    tensors: dict[str, torch.Tensor]
    places: list[str]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a .safetensors file or a torch checkpoint. Code in the file is never executed.

    Raises:
        ConfigError: The file cannot be read, or has no named tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tree = load_file(path)
        else:
            with torch.serialization.safe_globals(PLAIN):
                tree = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch and safetensors raise many kinds of errors
        reason = one_line(error)
        if "weights_only" in reason:  # torch's own message explains how to execute code in the file
            reason = "it contains pickled objects, which could execute code; save only the state dict"
        elif isinstance(error, KeyError) or reason.isdecimal():  # raised by pickle for other files
            reason = "it was not written by torch or safetensors"
        raise ConfigError([f"model.ifm.weights: {path} is not a checkpoint of tensors: {reason}"]) from None
    found = list(_named_tensors(tree, ""))
    if not found:
        raise ConfigError(
            [f"model.ifm.weights: {path} is not a state dict (names and tensors), nor does it contain one"]
        )
    tensors = {place + name: tensor for place, name, tensor in found}
    return Checkpoint(tensors, list(dict.fromkeys(place for place, *_ in found)))


def _named_tensors(tree: Any, place: str) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Yield the place (the prefix), the name and the tensor. An optimizer's tensors have numbers, and are left out."""
    named = {key: value for key, value in tree.items() if isinstance(key, str)} if isinstance(tree, dict) else {}
    for key, value in named.items():
        if isinstance(value, torch.Tensor):
            for wrapper in WRAPPERS:
                key = key.replace(wrapper, "")
            yield place, key, value
        else:
            yield from _named_tensors(value, f"{place}{key}.")


def one_line(error: Exception) -> str:
    """Return the message of an error as one short line."""
    return " ".join(str(error).split())[:300] or type(error).__name__

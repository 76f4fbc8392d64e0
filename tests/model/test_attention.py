"""Attention of the image models: by torch's fused kernels, and equal to that of the libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from advise_ray.model.attention import FusedSelfAttention, fuse_attention
from tests.model.test_open_clip import VIT, tiny_clip
from tests.model.towers import build, noise

pytestmark = pytest.mark.usefixtures("one_thread")


class Called(TorchDispatchMode):
    """Notes the names of all kernels that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["open_clip", "timm:test_vit", "timm:test_vit2"])
def test_the_image_model_attends_by_a_fused_kernel(name: str, tmp_path: Path) -> None:
    if name == "open_clip":
        tiny_clip(tmp_path, VIT)
        name = f"open_clip:local-dir:{tmp_path}"
    ifm = build(name, precision="bf16")
    for autocast in (False, True):
        called = Called()
        with called, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            ifm(noise(2))
        assert any("scaled_dot_product" in kernel for kernel in called.names), called.names
        assert called.names.isdisjoint({"aten::_softmax", "aten::bmm"})


def test_it_equals_the_attention_that_it_replaces() -> None:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        nn.init.normal_(plain.in_proj_bias)
        expected = plain(x, x, x, need_weights=False)[0]
        names = list(plain.state_dict())
        block = nn.Module()
        block.attn = plain
        fuse_attention(nn.ModuleList([block]))
        torch.testing.assert_close(plain(x, x, x, need_weights=False)[0], expected)
    assert type(plain) is FusedSelfAttention
    assert list(plain.state_dict()) == names

"""Attention of the image models: by torch's fused kernels, and equal on GPUs and CPUs."""

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
FUSED = ("aten::_scaled_dot_product", "aten::_native_multi_head_attention", "aten::_transform")


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
    with Called() as called:
        ifm(noise(2))
    assert any(name.startswith(FUSED) for name in called.names), called.names
    assert called.names.isdisjoint({"aten::_softmax", "aten::bmm"})


@pytest.mark.parametrize("autocast", [False, True])
def test_a_gpu_computes_the_same_by_another_fused_kernel(autocast: bool) -> None:
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
        assert type(plain) is FusedSelfAttention
        assert torch.equal(plain(x, x, x, need_weights=False)[0], expected)  # on a CPU it is still torch's own
        with Called() as called, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = plain.fused(x)
    assert any("scaled_dot_product" in name for name in called.names), called.names
    assert called.names.isdisjoint({"aten::_softmax", "aten::bmm"})
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02 if autocast else 1e-5)
    assert list(plain.state_dict()) == names

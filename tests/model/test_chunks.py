"""How many frames at once: by measured times, not by real ones."""

from __future__ import annotations

import pytest
import torch

from advise_ray.model import ifm as ifm_module
from advise_ray.model.chunks import fast_enough
from advise_ray.model.ifm import IFM
from tests.model.towers import build, noise

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("frame_us", "chosen"),
    [
        ({64: 100, 128: 60, 256: 51, 512: 50}, 256),
        ({64: 50, 128: 50, 256: 50, 512: 50}, 64),
        ({64: 100, 128: 90, 256: 80, 512: 50}, 512),
    ],
)
def test_the_smallest_chunk_that_is_about_as_fast_as_the_fastest(frame_us: dict[int, float], chosen: int) -> None:
    assert fast_enough(lambda number: frame_us[number], tuple(frame_us)) == chosen


def test_a_chunk_that_does_not_fit_is_not_chosen_and_no_larger_one_is_tried() -> None:
    tried = []

    def frame_s(number: int) -> float:
        tried.append(number)
        if number > 128:
            raise torch.OutOfMemoryError
        return 1 / number

    assert fast_enough(frame_s, (64, 128, 256, 512)) == 128
    assert tried == [64, 128, 256]


@pytest.mark.parametrize("name", ["timm:test_efficientnet", "timm:test_vit"])
def test_chunks_do_not_change_the_features(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ifm = build(name)
    frames = noise(5)
    expected = ifm.encode(frames).mean((2, 3))
    sizes: list[int] = []
    monkeypatch.setattr(ifm_module, "CPU_CHUNK_PX", 2 * 64 * 64)

    def reduce(grids: torch.Tensor) -> torch.Tensor:
        sizes.append(len(grids))
        return grids.mean((2, 3))

    torch.testing.assert_close(ifm(frames, reduce), expected, rtol=1e-4, atol=1e-4)
    assert sizes == [2, 2, 1]


def test_a_gpu_is_measured_once_at_the_first_batch_that_is_large_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's device without data, as no GPU is needed to choose."""
    ifm: IFM = build("timm:test_vit").to("meta")
    measured = []
    monkeypatch.setattr(ifm_module, "choose_chunk", lambda encode, frames: measured.append(len(frames)) or 128)
    sizes: list[int] = []
    for number in (8, 300, 300):
        ifm(
            torch.empty(number, 64, 64, 3, dtype=torch.uint8, device="meta"),
            lambda grids: sizes.append(len(grids)) or grids,
        )
    assert measured == [300]
    assert sizes == [8, 128, 128, 44, 128, 128, 44]

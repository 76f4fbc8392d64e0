"""Times augmentation, of decoded frames to the input of the image model, against an earlier `model/augment.py`.

    git show COMMIT:advise_ray/model/augment.py > before.py
    python jobs/bench_augment.py before.py [recipe …]

The earlier file's `apply` returns uint8; its time includes the normalisation that the image model did afterwards.
Both are timed in turn. The figures are medians of 7 rounds: wall time, and CPU time of all threads.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advise_ray.backend import process_env
from advise_ray.config import load
from advise_ray.model import augment
from advise_ray.model.ifm import IFM, build_ifm
from advise_ray.video.augment_draws import draw

RECIPES = ("quickstart", "pretrain_ucf101", "finetune_footage", "finetune_ucf101")
CLIPS, FRAMES, ROUNDS = 32, 8, 7


def earlier(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("earlier", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def normalised(ifm: IFM, frames: torch.Tensor) -> list[torch.Tensor]:
    chunks = frames.flatten(0, 1).split(max(1, 2**18 // frames.shape[2] ** 2))
    shift, scale = -ifm.mean / ifm.std, 1 / ifm.std
    return [torch.addcmul(shift, chunk.movedim(-1, 1), scale).to(ifm.input_dtype) for chunk in chunks]


def measure(recipe: str, before: Any, ifm: IFM) -> None:
    size = load(Path(__file__).parent / f"{recipe}.yaml").augment
    rng = np.random.default_rng(0)
    shape = (CLIPS, FRAMES, size.resize_height_px, size.resize_width_px, 3)
    frames = torch.from_numpy(rng.integers(256, size=shape, dtype=np.uint8))
    draws = np.stack([draw(size, rng) for _ in range(CLIPS)])
    arms = {
        "before": lambda: normalised(ifm, before.apply(frames, draws, size.crop_size_px, ifm.interpolation)),
        "after": lambda: augment.apply(frames, draws, size.crop_size_px, ifm),
    }
    for threads in (1, 2):
        torch.set_num_threads(threads)
        took: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
        for _ in range(ROUNDS):
            for arm, run in arms.items():
                wall_s, cpu_s = time.perf_counter(), time.process_time()
                run()
                took[arm].append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
        for number, clock in enumerate(("wall", "CPU")):
            first, last = (statistics.median(each[number] for each in took[arm]) * 1e3 for arm in arms)
            print(f"{recipe} {threads} threads {clock}: {first:.1f} → {last:.1f} ms, {first / last:.2f}×", flush=True)


def main() -> None:
    if not process_env.ENVIRONMENT.items() <= os.environ.items():  # as `advise-ray` and its workers run
        os.environ.update(process_env.ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (ourselves)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the earlier file")
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="recipe", help="names; default: four of them")
    options = parser.parse_args()
    for recipe in options.recipes:
        measure(recipe, earlier(options.before), build_ifm(load(None, []).model.ifm, 224))


if __name__ == "__main__":
    main()

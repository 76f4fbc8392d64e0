from __future__ import annotations

import numpy as np
import torch

from advise_ray.model.transfer import to_device


def test_on_a_cpu_an_array_is_not_copied() -> None:
    array = np.zeros((2, 3), dtype=np.float16)
    tensor = to_device(array, torch.device("cpu"))
    array[1, 2] = 5
    assert tensor[1, 2] == 5
    assert tensor.dtype == torch.float16

"""Statistics of a manifest's videos."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

MOST = 8
"""Number of most common values that are listed; the rest is counted as `other`."""


def describe(manifest: pa.Table) -> dict[str, Any]:
    """Total hours, durations (`duration_s`: min, median, max), and the number of videos per size, fps, codec, decoder.

    A manifest has at least one video, so this raises nothing.
    """
    durations_s = np.asarray(manifest.column("duration_s"), dtype=float)
    columns = manifest.select(["width", "height", "fps", "codec", "decoder"]).to_pydict()
    sizes = [f"{width}×{height}" for width, height in zip(columns["width"], columns["height"], strict=True)]
    return {
        "hours": round(float(durations_s.sum()) / 3600, 3),
        "duration_s": {
            "min": round(float(durations_s.min()), 2),
            "median": round(float(np.median(durations_s)), 2),
            "max": round(float(durations_s.max()), 2),
        },
        "sizes_px": _most_common(sizes),
        "fps": _most_common([f"{fps:.5g}" for fps in columns["fps"]]),
        "codecs": _most_common(columns["codec"]),
        "decoders": _most_common(columns["decoder"]),
    }


def _most_common(values: list[str]) -> dict[str, int]:
    counts = Counter(values).most_common()
    rest = sum(count for _, count in counts[MOST:])
    return dict(counts[:MOST]) | ({"other": rest} if rest else {})

"""The memory of a run by the number of its videos: at 300,000, each process may hold a few bytes for a video."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from advise_ray.config import load
from advise_ray.training.clip_reader import ClipReader
from advise_ray.training.plan import make_plan

NUM_VIDEOS = 300_000


def write(folder: Path, num_videos: int) -> str:
    """Write a manifest of videos that share an empty file, and return its setting."""
    (folder / "video.mp4").touch()
    numbers = pa.array(range(num_videos)).cast(pa.string())
    same = {"path": str(folder / "video.mp4"), "num_frames": 99, "width": 320, "height": 240, "fps": 30.0}
    same |= {"duration_s": 3.3, "codec": "h264", "bytes": 9, "decoder": "pyav", "stream_index": 0, "rotation_deg": 0}
    columns = {name: pa.repeat(value, num_videos) for name, value in same.items()}
    path = folder / f"{num_videos}.parquet"
    pq.write_table(pa.table({"video_id": numbers} | columns), path)
    return f"data.manifest={path}"


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def held() -> tuple[int, int]:
    """Bytes that Python, NumPy and Arrow hold now, and their peak since the last call. Mapped files do not count."""
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    return now + pa.total_allocated_bytes(), peak + pa.total_allocated_bytes()


@pytest.mark.usefixtures("traced")
def test_a_process_holds_a_few_bytes_for_each_video(tiny: tuple[str, ...], tmp_path: Path) -> None:
    few, many = (load(None, [*tiny, write(tmp_path, number)]) for number in (100, NUM_VIDEOS))
    make_plan(few)  # all code is loaded
    before, _ = held()
    plan = make_plan(many)
    now, peak = held()
    assert (now - before) / NUM_VIDEOS < 8  # the rows for training and for validation
    assert (peak - before) / NUM_VIDEOS < 200

    buffers: list[pickle.PickleBuffer] = []
    sent = pickle.dumps((plan.videos, plan.worker_spec(tmp_path)), protocol=5, buffer_callback=buffers.append)
    shared = [buffer.raw() for buffer in buffers]
    assert len(sent) < 100_000
    assert sum(buffer.nbytes for buffer in shared) / NUM_VIDEOS < 400

    before, _ = held()
    videos, spec = pickle.loads(sent, buffers=shared)  # as in a worker or in a decode actor
    reader = ClipReader(spec.config, videos)
    assert reader(next(spec.schedule.batches())).failures  # the file is empty
    now, peak = held()
    assert (now - before) / NUM_VIDEOS < 8
    assert (peak - before) / NUM_VIDEOS < 24

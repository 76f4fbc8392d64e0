"""`bench decode`: clips per second of the pipeline, of a plain decord loop, and of decoding whole videos.

All arms read the same clips of the same files, with one thread per decoder and one process per core. The plain loop is
the upper bound, because it uses only decord. The paper's released code decodes whole videos and then selects frames.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import ray
from numpy.typing import NDArray

from advise_ray.backend import session
from advise_ray.backend.processes import Shares
from advise_ray.backend.reservation import Reservation, reserved
from advise_ray.backend.shares import LEAST_CPUS
from advise_ray.bench.machine import Environment, machine
from advise_ray.config import Config, load, played_clip
from advise_ray.training.batch_schedule import build_schedule
from advise_ray.training.clip_stream import ClipStream
from advise_ray.video.decode_process import DecodeProcess
from advise_ray.video.manifest import ManifestRow, Videos, read_manifest, write_manifest
from advise_ray.video.probe import probe
from advise_ray.video.sampling import keyed_rng, plan_clips

LENGTHS_S = {"short": 10, "long": 60}
NUM_FILES = {"short": 16, "long": 8}
NUM_CLIPS = {"short": 640, "long": 384}
"""Clips of one measurement on two cores; the files are read repeatedly. The slowest arm reads a fifth of the clips."""
VIDEOS_LISTED = 32
"""Number of listed videos, which is one batch of the default size with one clip per video."""
ROUNDS = 3
WIDTH_PX, HEIGHT_PX, FPS, GOP_FRAMES = 320, 240, 30, 250
NUM_DECODES, FIRST_DECODES = 5000, 500
Work = tuple[str, NDArray[np.int64]]


class DecodeResult(Environment):
    """The output of `bench decode --json`.

    Attributes:
        short, short_4, long, long_4: see `measure`; short or long videos, with one or with four clips per video.
        resident_growth_bytes: growth of a decoder's memory over 5,000 decodes.
    """

    short: dict[str, float]
    short_4: dict[str, float]
    long: dict[str, float]
    long_4: dict[str, float]
    resident_growth_bytes: int


def decode(on_case: Callable[[str, dict[str, float]], None] = lambda name, figures: None) -> DecodeResult:
    """Measure each video length with one and four clips per video, and a decoder's memory growth."""
    cases: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for length, duration_s in LENGTHS_S.items():
            manifest = make_manifest(Path(folder) / length, NUM_FILES[length], duration_s)
            for clips_per_video, name in ((1, length), (4, f"{length}_4")):
                cases[name] = measure(manifest, clips_per_video, NUM_CLIPS[length] * processes() // 2)
                on_case(name, cases[name])
        file = next((Path(folder) / "short").glob("*.mp4"))
        growth_bytes = resident_growth_bytes(file, NUM_DECODES, FIRST_DECODES)
    return cast("DecodeResult", {**cases, "resident_growth_bytes": growth_bytes, **machine()})


def make_manifest(folder: Path, num_files: int, duration_s: int, num_listed: int = VIDEOS_LISTED) -> Path:
    """Write synthesized H.264 files with a keyframe every 250 frames (x264's default) and list each several times."""
    folder.mkdir(parents=True)
    rows: list[ManifestRow] = []
    for number in range(num_files):
        path = folder / f"{number:02d}.mp4"
        _write(path, duration_s, keyed_rng("bench", number))
        info = probe(path)
        assert info.decoder == "decord", info  # all arms must use the same decoder
        row = cast("ManifestRow", {"path": str(path), "label": 0, "split": "train", **vars(info)})
        rows += [{**row, "video_id": f"{time}/{path.name}"} for time in range(num_listed // num_files)]
    write_manifest(rows, folder / "manifest.parquet")
    return folder / "manifest.parquet"


def _write(path: Path, duration_s: int, rng: np.random.Generator) -> None:
    """Write a video of a drifting texture, in colours that both decoders convert equally."""
    blocks = rng.uniform(-50, 50, size=(HEIGHT_PX // 8 + 60, WIDTH_PX // 8 + 60, 1)) + rng.uniform(60, 196, size=3)
    texture = blocks.repeat(8, 0).repeat(8, 1).astype(np.uint8)
    with av.open(str(path), "w") as container:
        keyframes = f"keyint={GOP_FRAMES}:min-keyint={GOP_FRAMES}:scenecut=0"
        options = {"preset": "veryfast", "threads": "1", "x264-params": keyframes}
        stream = container.add_stream("libx264", rate=Fraction(FPS), options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for frame in range(duration_s * FPS):
            x, y = frame * 2 % 400, int(200 + 150 * np.sin(frame / 40))
            image = np.ascontiguousarray(texture[y : y + HEIGHT_PX, x : x + WIDTH_PX])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def measure(manifest: Path, clips_per_video: int, num_clips: int) -> dict[str, float]:
    """Clips per second of the three arms, as `ARM_clips_per_s`: the median of several rounds. The arms take turns."""
    config, few = (bench_config(manifest, clips_per_video, clips) for clips in (num_clips, num_clips // 5))
    arms: dict[str, Callable[[], float]] = {
        "pipeline": lambda: pipeline_clips_per_s(config),
        "plain_decord": lambda: loop_clips_per_s(config, whole=False),
        "decode_everything": lambda: loop_clips_per_s(few, whole=True),
    }
    measured: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(ROUNDS):
        for arm, run in arms.items():
            measured[arm].append(run())
    return {f"{arm}_clips_per_s": statistics.median(values) for arm, values in measured.items()}


def bench_config(manifest: Path, clips_per_video: int, num_clips: int) -> Config:
    """A configuration for about `num_clips` clips: T 8, stride 2, rate 1, default frame and batch sizes."""
    clips_per_epoch = read_manifest(manifest).num_rows * clips_per_video
    return load(
        None,
        [
            "task=action",  # clips at rate 1 only
            f"data.manifest={manifest}",
            "data.val_fraction=0",
            f"data.clip={{num_frames: 8, frame_stride: 2, clips_per_video: {clips_per_video}}}",
            f"train.epochs={max(1, num_clips // clips_per_epoch)}",
        ],
    )


def processes() -> int:
    """Number of decoding processes of every arm: one per core."""
    return len(os.sched_getaffinity(0))


def pipeline_clips_per_s(config: Config, num_actors: int | None = None) -> float:
    """Clips per second that Ray Data delivers, without the start-up and the end of the stream.

    Args:
        num_actors: number of decode actors. None: one per core.
    """
    session.connect()
    num_actors = num_actors or processes()
    table = read_manifest(Path(str(config.data.manifest)))
    schedule = build_schedule(config, table)
    share = processes() / (processes() + 1)  # leaves CPU time for the reader
    room = Reservation(Shares(1, LEAST_CPUS, num_actors, round(share, 2), use_gpu=False))
    times, clips = [], []
    with reserved(room, config.train.max_wait_s) as (_, group):
        for block in ClipStream(config, schedule, ray.put(Videos(table)), 0, group).blocks_for_driver():
            assert not block.failures, block.failures
            times.append(time.perf_counter())
            clips.append(float(block.weights.sum()))
    # Leave out the start of the actors, and the end, when some actors are already finished.
    first = len(times) // 4
    last = max(len(times) - 1 - num_actors, first + 1)
    return sum(clips[first + 1 : last + 1]) / (times[last] - times[first])


def loop_clips_per_s(config: Config, *, whole: bool) -> float:
    """Clips per second of plain decord for the same clips. With `whole`, it decodes whole videos and selects frames."""
    with multiprocessing.get_context("spawn").Pool(processes()) as pool:
        size = (config.augment.resize_height_px, config.augment.resize_width_px)
        pool.map(_warm_up, range(processes()), chunksize=1)
        work = list(_work(config))
        started_s = time.perf_counter()
        for _ in pool.imap_unordered(functools.partial(_read, size=size, whole=whole), work):
            pass  # videos are handed out one by one, so that no process gets all slow files
        seconds = time.perf_counter() - started_s
    return sum(len(wanted) for _, wanted in work) / config.data.clip.num_frames / seconds


def _work(config: Config) -> Iterator[Work]:
    """Yield the run's clips video by video: the path, and the frame numbers of all of its clips."""
    table = read_manifest(Path(str(config.data.manifest)))
    schedule, rows = build_schedule(config, table), Videos(table)
    for batch in schedule.batches():
        for index in dict.fromkeys(batch.videos.tolist()):
            rng = keyed_rng(config.seed, "clip", batch.epoch, rows[index].video_id)
            clips = plan_clips(rows[index].num_frames, played_clip(config), rng)
            yield rows[index].path, np.concatenate([clip.frame_indices for clip in clips])


def _warm_up(_: int) -> None:
    from advise_ray.video import decode  # noqa: F401 (imports decord)


def _read(work: Work, size: tuple[int, int], whole: bool) -> int:
    from advise_ray.video.decode import decord

    path, wanted = work
    if whole:  # without resizing, which would only be needed for 8 frames
        reader = decord.VideoReader(path, num_threads=1)
        frames = reader.get_batch(range(len(reader))).asnumpy()[wanted]
    else:  # each frame once, in ascending order, because clips overlap and seeking back is slow
        reader = decord.VideoReader(path, height=size[0], width=size[1], num_threads=1)
        ascending, places = np.unique(wanted, return_inverse=True)
        frames = reader.get_batch(ascending).asnumpy()[places]
    return len(frames)


def resident_growth_bytes(file: Path, num_decodes: int, first_decodes: int) -> int:
    """Growth of a decoding process's resident memory from decode number `first_decodes` to the last one."""
    rng = keyed_rng("growth")
    starts, before = probe(file).num_frames - 2 * 8, 0
    with DecodeProcess(deadline_s=60) as decoder:
        for number in range(1, num_decodes + 1):
            wanted = np.arange(8) * 2 + rng.integers(starts)
            decoder.decode(str(file), wanted, height_px=256, width_px=320, name=file.name)
            if number == first_decodes:
                before = decoder.resident_bytes()
        return decoder.resident_bytes() - before

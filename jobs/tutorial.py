# %% [markdown]
"""From a folder of videos to neighbours and a classifier, with pictures, in under ten minutes on 2 CPU cores.

    python jobs/tutorial.py

Editors that know `# %%` cells (VS Code, PyCharm, Spyder, Jupytext) run it cell by cell. It writes everything, also its
pictures, to the folder `tutorial`. The videos are synthesized: eight kinds of motion, which a single frame cannot tell
apart. To use your own videos, set VIDEOS to a folder with a subfolder for each class.
"""

# %% Each step is a command; the same commands work in a terminal.
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import matplotlib as mpl
import numpy as np
import pyarrow.parquet as pq

mpl.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path("tutorial").absolute()
VIDEOS = FOLDER / "videos"


def advise_ray(*arguments: str | Path) -> str:
    """Run a command in FOLDER, and return what it prints."""
    print("$ advise-ray", *arguments, flush=True)
    command = [sys.executable, "-m", "advise_ray", "--quiet", *map(str, arguments)]
    output = subprocess.run(command, cwd=FOLDER, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603
    print(output, flush=True)
    return output


def frames_of(path: str | Path, start_s: float, end_s: float, count: int) -> list[np.ndarray]:
    """Decode `count` evenly spaced frames between two times of a video, uint8[H, W, 3] each."""
    with av.open(str(path)) as container:
        shown = [(frame.time, frame) for frame in container.decode(video=0)]
    times_s = np.asarray([time_s for time_s, _ in shown])
    wanted = [int(np.abs(times_s - time_s).argmin()) for time_s in np.linspace(start_s, end_s, count)]
    return [shown[index][1].to_ndarray(format="rgb24", threads=1) for index in wanted]


def strips(rows: list[tuple[str, list[np.ndarray]]], name: str) -> None:
    """Save a picture with a row of frames for each title."""
    columns = max(len(frames) for _, frames in rows)
    figure, axes = plt.subplots(len(rows), columns, figsize=(1.6 * columns, 1.45 * len(rows)), squeeze=False)
    for (title, frames), line in zip(rows, axes, strict=True):
        for axis, frame in zip(line, frames, strict=False):
            axis.imshow(frame)
        for axis in line:
            axis.axis("off")
        line[0].set_title(title, fontsize=8, loc="left")
    figure.tight_layout()
    figure.savefig(FOLDER / name, dpi=90)


# %% The videos, and a manifest: one row for each video, a quarter of them for testing.
FOLDER.mkdir(exist_ok=True)
if not VIDEOS.exists():
    advise_ray("data", "synth", VIDEOS, "--videos", "160")
advise_ray(
    "data", "index", "--format", "folder", "--videos", VIDEOS, "--test-fraction", "0.25", "--out", "clips.parquet"
)
manifest = {row["video_id"]: row for row in pq.read_table(FOLDER / "clips.parquet").to_pylist()}

# %% A recipe that fits the videos and this machine. Read its comments: they say why each value was chosen.
(FOLDER / "recipe.yaml").unlink(missing_ok=True)
advise_ray("init", "--videos", "clips.parquet", "--out", "recipe.yaml")
print((FOLDER / "recipe.yaml").read_text())

# %% What the model learns from: the same video at several playback rates. It must see how fast things move.
example = next(iter(manifest.values()))
strips([(f"rate ×{rate}", frames_of(example["path"], 0.3, 0.3 + 0.47 * rate, 8)) for rate in (1, 2, 4)], "rates.png")

# %% The features of all frames, once. One view saves time here; more views make a better model.
advise_ray("cache", "--config", "recipe.yaml", "--set", "cache.views=1", "--out", "features")

# %% Pretraining, without labels.
CACHED = ("--set", "data.features=features")
pretraining = json.loads(
    advise_ray("train", "--config", "recipe.yaml", *CACHED, "--set", "tracking.run_name=pretrained", "--json")
)
lines = [json.loads(line) for line in (FOLDER / "runs/pretrained/metrics.jsonl").read_text().splitlines()]
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
for axis, metric in zip(axes, ("train/loss", "val/top1"), strict=True):
    points = [(line["step"], line["values"][metric]) for line in lines if metric in line["values"]]
    axis.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else "")
    axis.set(title=metric, xlabel="step")
figure.tight_layout()
figure.savefig(FOLDER / "curves.png", dpi=90)

# %% An embedding for each clip of each video.
advise_ray("embed", "runs/pretrained", "--videos", "clips.parquet", "--out", "embeddings.parquet")
table = pq.read_table(FOLDER / "embeddings.parquet")
clips = [row for row in table.to_pylist() if row["error"] is None]
embeddings = np.asarray([row["embedding"] for row in clips])
embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)

# %% The nearest clips of other videos, by the cosine. `advise-ray search` does this for millions of clips.
rows = []
for query in (0, len(clips) // 2):
    others = np.asarray([row["video_id"] != clips[query]["video_id"] for row in clips])
    nearest = np.argsort(-np.where(others, embeddings @ embeddings[query], -np.inf))[:3]
    for index in (query, *nearest):
        clip, cosine = clips[index], embeddings[index] @ embeddings[query]
        title = f"{clip['video_id']}, {clip['clip_start_s']:.1f} s" + (
            "" if index == query else f", cosine {cosine:.3f}"
        )
        path = manifest[clip["video_id"]]["path"]
        rows.append((title, frames_of(path, clip["clip_start_s"], clip["clip_end_s"], 6)))
strips(rows, "neighbours.png")

# %% A classifier: the pretrained module, and a new head that learns the names of the folders.
(FOLDER / "finetune.yaml").unlink(missing_ok=True)
advise_ray("init", "--videos", "clips.parquet", "--labels", "--out", "finetune.yaml")
advise_ray(
    *("train", "--config", "finetune.yaml", *CACHED, "--set", "model.init_from=runs/pretrained"),
    *("--set", "tracking.run_name=classifier", "--json"),
)

# %% How good it is on the test videos, which no step has seen; and what it says about one of them. 15 videos of a
# class are few: the accuracy rises with the number of videos.
tested = json.loads(
    advise_ray("evaluate", "runs/classifier", "--protocol", "multiview", "--clips", "5", "--crops", "1", "--json")
)
names = sorted({row["class_name"] for row in manifest.values()})
print(f"accuracy {tested['metrics']['top1']:.3f}, chance {1 / len(names):.3f}")

from advise_ray import load  # noqa: E402 (only this cell needs the model in this process)

model = load(FOLDER / "runs/classifier")
unseen = next(row for row in manifest.values() if row["split"] == "test")
probabilities = model.predict(unseen["path"])
figure, axes = plt.subplots(1, 2, figsize=(9, 3), width_ratios=(1, 1))
axes[0].imshow(frames_of(unseen["path"], 0, 1, 1)[0])
axes[0].set(title=unseen["video_id"], xticks=[], yticks=[])
axes[1].barh(list(probabilities), list(probabilities.values()))
axes[1].set(xlabel="probability")
figure.tight_layout()
figure.savefig(FOLDER / "prediction.png", dpi=90)
print("pictures:", *sorted(path.name for path in FOLDER.glob("*.png")))

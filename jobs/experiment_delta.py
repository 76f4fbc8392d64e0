"""The ΔAcc experiment: does pretraining on playback rates help to recognise actions, on your videos?

    python jobs/experiment_delta.py --manifest clips.parquet --out runs/delta

For each seed: PRP pretraining; fine-tuning after it and from scratch under the same budget, tested with many views
(Acc_ft; ΔAcc is their difference, seed by seed); linear probe and kNN of the image model alone, of a temporal module at
random and of the pretrained one. `--rival` adds the R3D-50: the same PRP end to end at equal steps and at equal time,
then fine-tuned. Where the CPUs or GPUs allow it, seeds run side by side. It can be stopped and started again: what is
done is kept. The table is printed, and goes with its numbers to OUT and to MLflow.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from advise_ray import threads  # before torch is imported

os.environ.update(threads.ENVIRONMENT | os.environ)

import click
import numpy as np
import ray
from scipy import stats

from advise_ray import recipes, runtime
from advise_ray.config import Config, load, to_yaml
from advise_ray.errors import AdviseRayError
from advise_ray.evaluation.actions import Settings
from advise_ray.evaluation.run import evaluate
from advise_ray.tracking import RunTracker
from advise_ray.training.trainer import resume, train
from advise_ray.video.manifest import read_manifest, write_manifest

CPUS_PER_SEED = 4
"""Below that, two runs at once would only slow each other down."""
IFM_ALONE = ("model.tmm.arch=none", "model.sfu.temporal_centering=false")
Row = dict[str, Any]


@click.command()
@click.option("--manifest", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory of the experiment.")
@click.option("--pretrain", default="quickstart", show_default=True, help="Recipe of the pretraining.")
@click.option("--finetune", default="finetune_quickstart", show_default=True, help="Recipe of the fine-tuning.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--labels-per-class", type=click.IntRange(1), help="Fine-tune and probe on so many videos of each class.")
@click.option("--rival", is_flag=True, help="Add the R3D-50, trained end to end.")
@click.option("--clips", type=click.IntRange(1), default=10, show_default=True, help="Of each test video.")
@click.option(
    "--crops", type=click.IntRange(1), default=3, show_default=True, help="Of each clip; 1 is what a feature cache has."
)
@click.option("--k", type=click.IntRange(1), default=20, show_default=True, help="kNN: neighbours that vote.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="For all runs; repeatable.")
def main(
    manifest: Path,
    out: Path,
    pretrain: str,
    finetune: str,
    seeds: int,
    labels_per_class: int | None,
    rival: bool,
    clips: int,
    crops: int,
    k: int,
    overrides: tuple[str, ...],
) -> None:
    """Measure what PRP pretraining adds, with its interval over seeds."""
    logging.basicConfig(format="%(message)s")
    started_s = time.monotonic()
    out, manifest = out.absolute(), manifest.absolute()
    out.mkdir(parents=True, exist_ok=True)
    own = (*overrides, f"storage.path={out}", "tracking.experiment=delta")
    labelled = few_labels(manifest, labels_per_class, out) if labels_per_class else manifest
    arms = Arms(
        str(recipes.find(pretrain)), str(recipes.find(finetune)), manifest, labelled, own, clips, crops, k, rival
    )
    try:
        rows = side_by_side(arms, range(seeds))
    except AdviseRayError as error:
        raise click.ClickException(str(error)) from None
    summary = summarise(rows) | {"seeds": seeds, "wall_s": round(time.monotonic() - started_s, 1)}
    (out / "delta.json").write_text(json.dumps({"rows": rows, "summary": summary}, indent=2) + "\n")
    table = as_table(summary, seeds)
    (out / "delta.md").write_text(table)
    click.echo(table)
    record(arms.config(arms.finetune, 0, "delta", labelled), out, summary)


class Arms:
    """The runs and evaluations of one seed; each is done once, and found again when the experiment goes on."""

    def __init__(
        self,
        pretrain: str,
        finetune: str,
        manifest: Path,
        labelled: Path,
        overrides: Sequence[str],
        clips: int,
        crops: int,
        k: int,
        rival: bool,
    ) -> None:
        self.pretrain, self.finetune = pretrain, finetune
        self.manifest, self.labelled = manifest, labelled
        self.overrides, self.rival = tuple(overrides), rival
        self.settings, self.crops = Settings(num_clips=clips, k=k), crops

    def config(self, recipe: str, seed: int, name: str, manifest: Path, *more: str) -> Config:
        own = (f"data.manifest={json.dumps(str(manifest))}", f"seed={seed}", f"tracking.run_name={name}")
        return load(recipe, [*self.overrides, *own, *more])

    def of_seed(self, seed: int) -> Row:
        """Every figure of one seed."""
        prp = self.run(self.config(self.pretrain, seed, f"prp-{seed}", self.manifest))
        row: Row = {"seed": seed, "prp_top1": prp["metrics"].get("val/top1"), "prp_s": prp["wall_s"]}
        row["acc_ft"] = self.accuracy(seed, f"ft-prp-{seed}", f"model.init_from={prp['run_dir']}")
        row["acc_scratch"] = self.accuracy(seed, f"ft-scratch-{seed}", "model.init_from=null")
        row["delta_acc"] = row["acc_ft"] - row["acc_scratch"]
        at_random = Path(prp["run_dir"]).parent / f"random-{seed}.yaml"
        at_random.write_text(to_yaml(self.config(self.pretrain, seed, f"random-{seed}", self.manifest)))
        for protocol in ("linear", "knn"):
            if seed == 0:  # no seed changes the image model
                row[f"{protocol}_ifm"] = self.judge(prp["run_dir"], protocol, *IFM_ALONE)
            row[f"{protocol}_random_tmm"] = self.judge(str(at_random), protocol)
            row[f"{protocol}_prp_tmm"] = self.judge(prp["run_dir"], protocol)
        return row | (self.of_rival(seed, prp) if self.rival else {})

    def of_rival(self, seed: int, prp: Row) -> Row:
        """The R3D-50 with the same PRP for as many steps, and for as long as ours took; each fine-tuned after it."""
        kind = ("model.kind=r3d50", "train.precision=bf16", "data.features=null")
        equal_steps = self.run(self.config(self.pretrain, seed, f"rival-steps-{seed}", self.manifest, *kind))
        row: Row = {"rival_prp_s": equal_steps["wall_s"], "rival_prp_top1": equal_steps["metrics"].get("val/top1")}
        init = f"model.init_from={equal_steps['run_dir']}"
        row["rival_acc_equal_steps"] = self.accuracy(seed, f"ft-rival-steps-{seed}", init, *kind)
        epochs = max(1, round(equal_steps["epochs"] * prp["wall_s"] / equal_steps["wall_s"]))
        name = f"rival-time-{seed}"
        equal_time = self.run(self.config(self.pretrain, seed, name, self.manifest, *kind, f"train.epochs={epochs}"))
        init = f"model.init_from={equal_time['run_dir']}"
        row["rival_acc_equal_time"] = self.accuracy(seed, f"ft-rival-time-{seed}", init, *kind)
        return row

    def run(self, config: Config) -> Row:
        """Train, or go on with what has begun, or take what is done."""
        run_dir = Path(config.storage.path) / str(config.tracking.run_name)
        return resume(run_dir) if run_dir.exists() else train(config)

    def accuracy(self, seed: int, name: str, *more: str) -> float:
        """Top-1 on the test videos after fine-tuning."""
        result = self.run(self.config(self.finetune, seed, name, self.labelled, *more))
        return self.judge(result["run_dir"], "multiview")

    def judge(self, target: str, protocol: Any, *overrides: str) -> float:
        labelled = f"data.manifest={json.dumps(str(self.labelled))}"
        settings = replace(self.settings, num_crops=self.crops) if protocol == "multiview" else self.settings
        result = evaluate(target, protocol, settings=settings, overrides=[labelled, *overrides])
        return float(result["metrics"]["top1"])


def side_by_side(arms: Arms, seeds: Sequence[int]) -> list[Row]:
    """All seeds, as many at a time as there is room for."""
    runtime.connect()
    room = int(max(runtime.available_cpus() // CPUS_PER_SEED, 1))
    gpus = int(runtime.available_gpus())
    room = min(room, gpus) if gpus else room
    if room == 1:
        return [arms.of_seed(seed) for seed in seeds]
    arms.overrides += (f"train.cpus_per_worker={CPUS_PER_SEED - 2}", "data.num_decode_actors=1")
    of_seed = ray.remote(num_cpus=0, max_retries=0)(Arms.of_seed)
    waiting, rows = list(seeds), []
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < room:
            running.append(of_seed.remote(arms, waiting.pop(0)))
        (done,), running = ray.wait(running)
        rows.append(ray.get(done))
    return sorted(rows, key=lambda row: int(row["seed"]))


def few_labels(manifest: Path, per_class: int, out: Path) -> Path:
    """A manifest in which only the first so many training videos of each class are left to learn from, by name."""
    rows, taken = read_manifest(manifest).to_pylist(), dict[int, int]()
    for row in sorted(rows, key=lambda row: str(row["video_id"])):
        if row["split"] == "train" and row["label"] is not None:
            taken[row["label"]] = taken.get(row["label"], 0) + 1
            if taken[row["label"]] > per_class:
                row["split"] = "unlabelled"
    path = out / f"labels_{per_class}.parquet"
    write_manifest(rows, path)
    return path


def summarise(rows: list[Row]) -> Row:
    """Mean and half-width of the 95 % interval (Student's t over seeds) of every figure."""
    summary: Row = {}
    for name in rows[0]:
        values = [row[name] for row in rows if row.get(name) is not None]
        if name != "seed" and values:
            half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else None
            summary[name] = {"mean": float(np.mean(values)), "half_width_95": None if half is None else float(half)}
    return summary


def as_table(summary: Row, seeds: int) -> str:
    """Markdown."""
    lines = [f"| figure | mean over {seeds} seed(s) | ± 95 % |", "| --- | --- | --- |"]
    for name, value in summary.items():
        if isinstance(value, dict):
            half = "" if value["half_width_95"] is None else f"{value['half_width_95']:.3f}"
            lines.append(f"| {name} | {value['mean']:.3f} | {half} |")
    return "\n".join([*lines, "", f"{summary['wall_s']:.0f} s in all.", ""])


def record(config: Config, out: Path, summary: Row) -> None:
    """One MLflow run for the whole, beside those of its arms."""
    run_dir = out / "delta"
    run_dir.mkdir(exist_ok=True)
    (run_dir / "config.yaml").write_text(to_yaml(config))
    tracker = RunTracker(config, run_dir)
    tracker.start(device="cpu")
    figures = {name: value["mean"] for name, value in summary.items() if isinstance(value, dict)}
    tracker.finish("FINISHED", [out / "delta.md", out / "delta.json"], figures)


if __name__ == "__main__":
    main()

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from advise_ray.config import Config, load
from advise_ray.errors import ConfigError, UsageError
from advise_ray.model.advise import build_advise
from advise_ray.training import checkpoint
from advise_ray.training.optimizer import build_optimizer
from advise_ray.training.plan import Plan, make_plan
from advise_ray.video.manifest import write_manifest


def plan_of(
    tmp_path: Path,
    tiny: tuple[str, ...],
    lengths: dict[str, list[int]],
    *settings: str,
    label: Callable[[int], int | None] = lambda index: None,
) -> Plan:
    video = tmp_path / "video.mp4"
    video.touch()
    described = {
        "path": str(video),
        "width": 320,
        "height": 240,
        "fps": 30.0,
        "decoder": "pyav",
        "stream_index": 0,
        "rotation_deg": 0,
    }
    rows = [
        {"video_id": f"{split}{index}", "label": label(index), "split": split, "num_frames": number, **described}
        for split, numbers in lengths.items()
        for index, number in enumerate(numbers)
    ]
    write_manifest(rows, tmp_path / "manifest.parquet")
    where = [f"data.manifest={tmp_path / 'manifest.parquet'}", f"storage.path={tmp_path / 'runs'}"]
    return make_plan(load(None, [*tiny, *where, *settings]))


@pytest.mark.parametrize(
    ("val", "notes"),
    [
        ([15, 99], []),
        (
            [14, 15, 3],
            ["leaving out 2 validation videos shorter than 15 frames, the span of a clip at the fastest rate"],
        ),
        (
            [14, 3],
            [
                "leaving out 2 validation videos shorter than 15 frames, the span of a clip at the fastest rate; none "
                "is long enough: val/top1 will be absent"
            ],
        ),
        ([], ["there are no validation videos (data.val_split, data.val_fraction): val/top1 will be absent"]),
    ],
)
def test_a_metric_that_will_be_absent_is_said_before(
    tmp_path: Path, tiny: tuple[str, ...], val: list[int], notes: list[str]
) -> None:
    plan = plan_of(tmp_path, tiny, {"train": [30] * 9, "test": val}, "data.val_fraction=0")
    summary = json.loads(json.dumps(plan.summary()))
    assert summary["notes"] == notes
    assert (summary["train_videos"], summary["steps_per_epoch"]) == (9, 3)
    assert summary["val_videos"] + summary["val_videos_too_short"] == len(val)
    assert not (tmp_path / "runs").exists()


def test_a_run_needs_a_manifest(tiny: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(load(None, tiny))
    assert str(caught.value) == (
        "data.manifest: required; make one with `advise-ray data index`, or use `--videos DIR`"
    )


def test_actions_are_the_manifests_classes_and_no_video_is_too_short(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    videos = {"train": [30] * 9, "test": [2, 99], "later": [30] * 7}
    summary = plan_of(tmp_path, tiny, videos, "task=action", label=lambda index: index // 2).summary()
    assert (summary["classes"], summary["val_videos"], summary["val_videos_too_short"]) == (5, 2, 0)
    assert summary["val_clips"] == 2
    assert summary["notes"] == []


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (lambda index: None, "data.manifest: task=action needs labels, and 11 of 11 videos have none; "),
        (lambda index: 0, "data.manifest: task=action needs labels from 0 on, of two classes or more"),
        (lambda index: index - 1, "data.manifest: task=action needs labels from 0 on, of two classes or more"),
    ],
)
def test_labels_that_do_not_name_classes_are_refused(tmp_path: Path, tiny: tuple[str, ...], label, problem) -> None:
    with pytest.raises(UsageError) as caught:
        plan_of(tmp_path, tiny, {"train": [30] * 9, "test": [30, 30]}, "task=action", label=label)
    assert str(caught.value).startswith(problem)


def test_a_few_videos_without_labels_are_left_out_of_actions_and_told(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    videos = {"train": [30] * 9, "test": [30, 30]}
    summary = plan_of(tmp_path, tiny, videos, "task=action", label=lambda index: index or None).summary()
    assert (summary["train_videos"], summary["val_videos"]) == (8, 1)
    assert summary["notes"] == ["leaving out 2 videos without a label"]


def test_rates_that_no_training_video_can_show_are_refused(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        plan_of(tmp_path, tiny, {"train": [4, 5], "val": [99]})
    assert str(caught.value) == (
        "data.clip: no training video can be played at more than one of the rates; the longest has 5 frames, and ×2 "
        "takes 6; lower num_frames, frame_stride or rates (or raise sample_fps), or use longer videos"
    )
    few, *_ = plan_of(tmp_path, tiny, {"train": [4, 6], "val": [99]}, "data.val_split=val").notes()
    assert few.startswith("a step takes 4 videos, but only 2 can be trained on")


def test_that_another_split_is_validated_on_is_said(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    plan = plan_of(tmp_path, tiny, {"train": [30] * 9, "val": [99]}, "data.val_split=test")
    assert plan.summary()["val_videos"] == 1
    assert plan.notes() == ["no video has split 'test' (data.val_split): using 'val' instead"]


@pytest.mark.parametrize(
    ("asked", "note"),
    [
        (1, "data.num_decode_actors: 2 instead of 1: each worker has actors of its own"),
        (3, "data.num_decode_actors: 3 for 2 workers, each with actors of its own: the run is as fast as the worker"),
        (4, None),
    ],
)
def test_decode_actors_that_do_not_divide_are_told(tmp_path: Path, tiny: tuple[str, ...], asked: int, note) -> None:
    own = ("train.num_workers=2", f"data.num_decode_actors={asked}", "train.use_gpu=false")
    notes = plan_of(tmp_path, tiny, {"train": [30] * 9, "test": [99]}, *own).notes()
    assert [each.startswith(note) for each in notes] == ([True] if note else [])


def test_what_makes_little_sense_is_said(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    odd = ["model.freeze_tmm=true", "model.ifm.compile=true", "train.use_gpu=false"]
    compiled, frozen = plan_of(tmp_path, tiny, {"train": [30] * 9, "test": [99]}, *odd).notes()
    assert compiled == "model.ifm.compile: on CPUs this makes most image models slower"
    assert frozen.startswith("model.freeze_tmm without model.init_from: the temporal module keeps its random")


def pretrained(run_dir: Path, config: Config) -> Path:
    """A checkpoint whose TMM is of all ones."""
    run_dir.mkdir()
    model = build_advise(config, 3)
    for tensor in model.temporal.tmm.state_dict().values():
        tensor.fill_(1)
    optimizer = build_optimizer(model.temporal, config.optim)
    state = checkpoint.State(step=1, ifm_sha256=model.ifm.hash_weights())
    return checkpoint.save(run_dir, config, model.temporal, optimizer, state)


VIDEOS = {"train": [30] * 9, "test": [99]}


def test_a_temporal_module_is_taken_from_a_checkpoint_or_a_run(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    path = pretrained(tmp_path / "run", load(None, tiny))
    other = ["task=action", "model.head.hidden_dim=7", "model.ifm.precision=bf16"]  # what a new task may change
    for source in (path, tmp_path / "run"):
        plan = plan_of(tmp_path, tiny, VIDEOS, f"model.init_from={source}", *other, label=lambda index: index)
        assert all((tensor == 1).all() for tensor in plan.model.temporal.tmm.state_dict().values())
        assert plan.model.temporal.head[0].out_features == 7
    shutil.rmtree(tmp_path / "run")  # a run that has begun needs it no more
    make_plan(plan.config, begun=True)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            ["model.sfu.temporal_centering=false", "model.tmm.num_blocks=2"],
            "model.sfu.temporal_centering: False, but the TMM of model.init_from was trained with True\n"
            "model.tmm.num_blocks: 2, but the TMM of model.init_from was trained with 1",
        ),
        (
            ["model.kind=r3d50", "augment.crop_size_px=32"],
            "model.kind: r3d50, but the TMM of model.init_from was trained with advise",
        ),
        (
            ["model.init_from=/nowhere"],
            "model.init_from: /nowhere is neither a checkpoint nor a run that has one; name a run's directory, or one "
            "of its checkpoints/step_…",
        ),
    ],
)
def test_a_temporal_module_of_another_design_is_refused(
    tmp_path: Path, tiny: tuple[str, ...], settings: list[str], problem: str
) -> None:
    path = pretrained(tmp_path / "run", load(None, tiny))
    with pytest.raises(ConfigError) as caught:
        plan_of(tmp_path, tiny, VIDEOS, f"model.init_from={path}", *settings)
    assert str(caught.value) == problem


def test_a_temporal_module_that_learnt_on_other_weights_is_refused(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    path = pretrained(tmp_path / "run", load(None, tiny))
    state = checkpoint.read_state(path)
    state.ifm_sha256 = "another"
    (path / "state.json").write_text(json.dumps(vars(state)))
    with pytest.raises(ConfigError, match=r"^model.ifm.weights: the TMM of model.init_from was trained with other"):
        plan_of(tmp_path, tiny, VIDEOS, f"model.init_from={path}")

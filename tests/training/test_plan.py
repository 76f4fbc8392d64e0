from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from advise_ray.backend.resources import share_cpus
from advise_ray.backend.shares import Growth, NodeType, Shares
from advise_ray.config import Config, load
from advise_ray.errors import ConfigError, UsageError
from advise_ray.model.advise import build_advise
from advise_ray.training import checkpoint
from advise_ray.training.optimizer import build_optimizer
from advise_ray.training.plan import Plan, make_plan
from advise_ray.video.manifest import write_manifest

CPUS = st.integers(1, 3200).map(lambda hundredths: hundredths / 100)
AMOUNTS = st.none() | st.sampled_from([0.25, 0.3, 0.5, 1, 1.5, 4])


def config_of(workers: int, actors: int | None = None, per_worker=None, per_actor=None, use_gpu=None) -> Config:
    settings = {
        "data.clip.clips_per_video": 1,
        "train.global_batch_size": 2 * workers,
        "train.num_workers": workers,
        "train.cpus_per_worker": per_worker,
        "train.use_gpu": use_gpu,
        "data.num_decode_actors": actors,
        "data.cpus_per_decode_actor": per_actor,
    }
    return load(None, [f"{key}={json.dumps(value)}" for key, value in settings.items()])


def needed(shares: Shares) -> float:
    return shares.num_workers * shares.cpus_per_worker + shares.num_decode_actors * shares.cpus_per_decode_actor


requests = st.fixed_dictionaries(
    {
        "workers": st.integers(1, 12),
        "actors": st.none() | st.integers(1, 12),
        "per_worker": AMOUNTS,
        "per_actor": AMOUNTS,
    }
)


@given(requests, CPUS, st.integers(0, 4))
def test_the_shares_never_exceed_the_cpus_there_are(request: dict, cpus: float, gpus: int) -> None:
    try:
        shares = share_cpus(config_of(**request), [(cpus, gpus)])
    except UsageError:
        assume(False)
    assert needed(shares) <= cpus + 1e-9
    assert min(shares.cpus_per_worker, shares.cpus_per_decode_actor) >= 0.25
    assert shares.num_workers == request["workers"]
    assert shares.num_decode_actors == (request["actors"] or shares.num_decode_actors) > 0
    assert shares.cpus_per_worker == (request["per_worker"] or shares.cpus_per_worker)
    assert shares.cpus_per_decode_actor == (request["per_actor"] or shares.cpus_per_decode_actor)


@given(requests, CPUS, st.integers(0, 4))
def test_only_what_cannot_be_split_is_refused(request: dict, cpus: float, gpus: int) -> None:
    per_worker, per_actor = request["per_worker"] or 0.25, request["per_actor"] or 0.25
    assume(request["workers"] * per_worker + (request["actors"] or 1) * per_actor <= cpus)
    share_cpus(config_of(**request), [(cpus, gpus)])


@given(requests, CPUS)
def test_a_refusal_says_what_fits(request: dict, cpus: float) -> None:
    try:
        share_cpus(config_of(**request), [(cpus, 0)])
        assume(False)
    except UsageError as error:
        message = str(error)
    amounts = {key: request[key] for key in ("per_worker", "per_actor")}
    if "not even one worker fits" in message:
        with pytest.raises(UsageError):
            share_cpus(config_of(1, 1, **amounts), [(cpus, 0)])
        return
    workers, actors = map(int, re.findall(r"at most (\d+) worker.*, or (\d+) decode actor", message)[0])
    for follows, exceeds in [((workers, 1), (workers + 1, 1)), ((1, actors), (1, actors + 1))]:
        share_cpus(config_of(*follows, **amounts), [(cpus, 0)])
        with pytest.raises(UsageError):
            share_cpus(config_of(*exceeds, **amounts), [(cpus, 0)])


def test_a_refusal_in_its_own_words() -> None:
    with pytest.raises(UsageError) as caught:
        share_cpus(config_of(8, 4), [(2, 0)])
    assert str(caught.value) == (
        "train.num_workers: 8 workers and 4 decode actors need 3 CPUs, there are 2; "
        "at most 7 workers with one decode actor, or 7 decode actors with one worker"
    )


@pytest.mark.parametrize(
    ("workers", "use_gpu", "cpus", "gpus", "shares"),
    [
        (1, None, 2, 0, Shares(1, 1.0, 1, 1.0, False)),
        (1, None, 1, 0, Shares(1, 0.5, 1, 0.5, False)),
        (1, None, 8, 0, Shares(1, 6.0, 2, 1.0, False)),  # the image model computes on CPUs
        (2, None, 8, 2, Shares(2, 1.0, 6, 1.0, True)),
        (2, None, 8, 1, Shares(2, 3.0, 2, 1.0, False)),
        (2, False, 8, 2, Shares(2, 3.0, 2, 1.0, False)),
        (1, True, 1, 1, Shares(1, 0.5, 1, 0.5, True)),
    ],
)
def test_who_gets_what(workers: int, use_gpu: bool | None, cpus: float, gpus: float, shares: Shares) -> None:
    assert share_cpus(config_of(workers, use_gpu=use_gpu), [(cpus, gpus)]) == shares


@given(
    requests,
    st.lists(st.tuples(st.integers(1, 64).map(lambda halves: halves / 2), st.integers(0, 4)), min_size=1, max_size=5),
)
def test_each_process_finds_a_node(request: dict, nodes: list[tuple[float, int]]) -> None:
    try:
        shares = share_cpus(config_of(**request), nodes)
    except UsageError:
        assume(False)
    assert min(shares.cpus_per_worker, shares.cpus_per_decode_actor) >= 0.25
    assert shares.cpus_per_worker <= max(cpus for cpus, gpus in nodes if gpus or not shares.use_gpu)
    assert shares.cpus_per_decode_actor <= max(cpus for cpus, _ in nodes)
    assert needed(shares) <= sum(cpus for cpus, _ in nodes) + 1e-9


@pytest.mark.parametrize(
    ("workers", "nodes", "shares"),
    [
        # Nodes without a GPU decode; workers have the CPUs beside theirs.
        (1, [(4, 0), (8, 1), (16, 0)], Shares(1, 8.0, 20, 1.0, True)),
        (2, [(8, 2), (16, 0)], Shares(2, 4.0, 16, 1.0, True)),
        # By the sum there would be 1.5 CPUs for each; no node has room for two of that.
        (2, [(2, 0), (1, 0), (1, 0)], Shares(2, 1.0, 1, 1.0, False)),
    ],
)
def test_who_gets_what_on_a_cluster(workers: int, nodes: list[tuple[float, float]], shares: Shares) -> None:
    assert share_cpus(config_of(workers), nodes) == shares


def test_a_worker_that_fits_no_node_is_refused() -> None:
    with pytest.raises(UsageError, match=r"do not fit the nodes \(2 of 4 CPUs\): a process cannot use two nodes"):
        share_cpus(config_of(1, per_worker=6), [(4, 0), (4, 0)])


@pytest.mark.parametrize(("gpus", "workers"), [(8, 8), (7, 4), (3, 2), (2, 2)])
def test_of_a_range_as_many_workers_as_find_room(gpus: int, workers: int) -> None:
    config = load(None, ["train.num_workers=[2, 8]", "train.global_batch_size=32", "data.clip.clips_per_video=2"])
    assert share_cpus(config, [(32, gpus)]).num_workers == workers


def range_of(*settings: str) -> Config:
    return load(None, ["data.clip.clips_per_video=1", "train.global_batch_size=12", *settings])


@pytest.mark.parametrize(
    ("settings", "cpus", "workers", "decoders"),
    [
        (("train.num_workers=[1, 3]",), 2, 1, 1),  # a worker has a CPU, the least share is for the least number
        (("train.num_workers=[1, 3]",), 1, 1, 1),
        (("train.num_workers=[1, 2]", "train.cpus_per_worker=1"), 2, 1, 1),
        (("train.num_workers=[1, 3]", "train.cpus_per_worker=1"), 6, 3, 3),  # what they leave decodes
        (("train.num_workers=[1, 3]", "data.num_decode_actors=3"), 8, 3, 3),
        (("train.num_workers=[1, 3]", "data.num_decode_actors=3", "train.cpus_per_worker=2"), 3, 1, 1),
    ],
)
def test_a_range_shares_with_its_decoders_at_each_size(settings, cpus, workers: int, decoders: int) -> None:
    shares = share_cpus(range_of(*settings), [(cpus, 0)])
    assert (shares.num_workers, shares.num_decode_actors) == (workers, decoders)
    assert needed(shares) <= cpus


CLOUD = Growth((NodeType("spot", 8, 1, 4), NodeType("on_demand", 8, 1, 4), NodeType("cpu", 16, 0, 4)), most=12)
"""aws.yaml and gcp.yaml."""


def small(cpus: float) -> Growth:
    return Growth((NodeType("small", cpus, 0, 4),), most=4)


@pytest.mark.parametrize(
    ("settings", "nodes", "growth", "shares"),
    [
        # GPUs that can come are taken, and of CPU nodes what decodes for them.
        ((), [(4, 0)], CLOUD, Shares(1, 8, 20, 1, True)),
        (("train.num_workers=4",), [(4, 0)], CLOUD, Shares(4, 8, 68, 1, True)),
        (("train.use_gpu=false",), [(4, 0)], CLOUD, Shares(1, 3, 1, 1, False)),
        # From nothing; and no more nodes than it takes.
        (("train.num_workers=2", "train.cpus_per_worker=1"), [], small(2), Shares(2, 1, 2, 1, False)),
        (("train.num_workers=2",), [(2, 0)], small(4), Shares(2, 2, 1, 1, False)),
        (("train.num_workers=[1, 3]",), [(2, 0)], small(2), Shares(3, 1, 1, 1, False)),
        (("train.num_workers=[1, 3]", "train.cpus_per_worker=1"), [(2, 0)], small(2), Shares(3, 1, 3, 1, False)),
    ],
)  # fmt: skip
def test_a_run_is_planned_for_what_its_cluster_may_become(settings, nodes, growth, shares: Shares) -> None:
    assert share_cpus(range_of(*settings), nodes, growth) == shares


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        (("train.num_workers=12", "train.use_gpu=true"), "12 workers need as many GPUs, there can be at most 8; "),
        (("train.cpus_per_worker=32",), r"1 worker of 1 GPU, 32 CPUs .* do not fit the nodes \(4 CPUs, 8 of 8 CPUs 1"),
        (("train.num_workers=12", "train.cpus_per_worker=16"), "192.25 CPUs, there can be at most 132; at most 8"),
    ],
)  # fmt: skip
def test_what_no_node_type_can_bring_is_refused(settings, refused: str) -> None:
    with pytest.raises(UsageError, match=refused):
        share_cpus(range_of(*settings), [(4, 0)], CLOUD)


def test_all_types_together_may_have_a_limit() -> None:
    with pytest.raises(UsageError, match="4 workers need as many GPUs, there can be at most 3"):
        share_cpus(range_of("train.num_workers=4", "train.use_gpu=true"), [(4, 0)], replace(CLOUD, most=3))


def test_a_range_whose_ends_do_not_share_a_step() -> None:
    with pytest.raises(ConfigError, match=r"must be a multiple of 12"):
        load(None, ["train.num_workers=[3, 4]", "train.global_batch_size=32", "data.clip.clips_per_video=4"])


def test_gpus_that_are_not_there_are_not_waited_for() -> None:
    with pytest.raises(UsageError) as caught:
        share_cpus(config_of(4, use_gpu=True), [(32, 2)])
    assert str(caught.value) == (
        "train.num_workers: 4 workers need as many GPUs, there are 2; lower it or set train.use_gpu=false"
    )


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

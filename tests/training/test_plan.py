from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from advise_ray.config import Config, load
from advise_ray.errors import ConfigError, UsageError
from advise_ray.training.plan import Plan, Shares, make_plan, share_cpus
from advise_ray.video.manifest import write_manifest

CPUS = st.integers(1, 3200).map(lambda hundredths: hundredths / 100)
AMOUNTS = st.none() | st.sampled_from([0.25, 0.3, 0.5, 1, 1.5, 4])


def config_of(workers: int, actors: int | None = None, per_worker=None, per_actor=None, use_gpu=None) -> Config:
    settings = {
        "data.clip.clips_per_video": 1,
        "train.global_batch_size": workers,
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
        shares = share_cpus(config_of(**request), cpus, gpus)
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
    share_cpus(config_of(**request), cpus, gpus)


@given(requests, CPUS)
def test_a_refusal_says_what_fits(request: dict, cpus: float) -> None:
    try:
        share_cpus(config_of(**request), cpus, 0)
        assume(False)
    except UsageError as error:
        message = str(error)
    amounts = {key: request[key] for key in ("per_worker", "per_actor")}
    if "not even one worker fits" in message:
        with pytest.raises(UsageError):
            share_cpus(config_of(1, 1, **amounts), cpus, 0)
        return
    workers, actors = map(int, re.findall(r"at most (\d+) worker.*, or (\d+) decode actor", message)[0])
    for follows, exceeds in [((workers, 1), (workers + 1, 1)), ((1, actors), (1, actors + 1))]:
        share_cpus(config_of(*follows, **amounts), cpus, 0)
        with pytest.raises(UsageError):
            share_cpus(config_of(*exceeds, **amounts), cpus, 0)


def test_a_refusal_in_its_own_words() -> None:
    with pytest.raises(UsageError) as caught:
        share_cpus(config_of(8, 4), 2, 0)
    assert str(caught.value) == (
        "train.num_workers: 8 workers and 4 decode actors need 3 CPUs, there are 2; "
        "at most 7 worker(s) beside one decode actor, or 7 decode actor(s) beside one worker"
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
    assert share_cpus(config_of(workers, use_gpu=use_gpu), cpus, gpus) == shares


def test_gpus_that_are_not_there_are_not_waited_for() -> None:
    with pytest.raises(UsageError) as caught:
        share_cpus(config_of(4, use_gpu=True), 32, 2)
    assert str(caught.value) == (
        "train.num_workers: 4 workers need as many GPUs, there are 2; lower it or set train.use_gpu=false"
    )


def plan_of(tmp_path: Path, tiny: tuple[str, ...], lengths: dict[str, list[int]], *settings: str) -> Plan:
    video = tmp_path / "video.mp4"
    video.touch()
    described = {"path": str(video), "decoder": "pyav", "stream_index": 0, "rotation_deg": 0}
    rows = [
        {"video_id": f"{split}{index}", "split": split, "num_frames": number, **described}
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
            ["2 validation videos are shorter than the 15 frames that the fastest rate takes and are left out"],
        ),
        (
            [14, 3],
            [
                "2 validation videos are shorter than the 15 frames that the fastest rate takes and are left out; none "
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

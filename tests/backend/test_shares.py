"""How the CPUs and GPUs of nodes are divided among the processes of a run."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from advise_ray.backend.processes import Growth, NodeType, Shares
from advise_ray.backend.shares import share_cpus
from advise_ray.config import Config, load
from advise_ray.errors import ConfigError, UsageError

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
    if request["actors"] is None:
        assert shares.num_decode_actors % request["workers"] == 0
    assert shares.num_decode_actors >= request["workers"]
    assert shares.num_decode_actors == max(request["workers"], request["actors"] or shares.num_decode_actors)
    assert shares.cpus_per_worker == (request["per_worker"] or shares.cpus_per_worker)
    assert shares.cpus_per_decode_actor == (request["per_actor"] or shares.cpus_per_decode_actor)


@given(requests, CPUS, st.integers(0, 4))
def test_only_what_cannot_be_split_is_refused(request: dict, cpus: float, gpus: int) -> None:
    per_worker, per_actor = request["per_worker"] or 0.25, request["per_actor"] or 0.25
    actors = max(request["workers"], request["actors"] or 1)
    assume(request["workers"] * per_worker + actors * per_actor <= cpus)
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
    for follows, exceeds in [((workers, workers), (workers + 1, 1)), ((1, actors), (1, actors + 1))]:
        share_cpus(config_of(*follows, **amounts), [(cpus, 0)])
        with pytest.raises(UsageError):
            share_cpus(config_of(*exceeds, **amounts), [(cpus, 0)])


def test_a_refusal_in_its_own_words() -> None:
    with pytest.raises(UsageError) as caught:
        share_cpus(config_of(8, 4), [(2, 0)])
    assert str(caught.value) == (
        "train.num_workers: 8 workers and 8 decode actors need 4 CPUs, there are 2; "
        "at most 4 workers with a decode actor each, or 7 decode actors with one worker"
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
        (2, [(2, 0), (1, 0), (1, 0)], Shares(2, 1.0, 2, 1.0, False)),
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
        (("train.num_workers=2",), [(2, 0)], small(4), Shares(2, 2, 2, 1, False)),
        (("train.num_workers=[1, 3]",), [(2, 0)], small(2), Shares(3, 1, 3, 1, False)),
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
        (("train.num_workers=12", "train.cpus_per_worker=16"), "195 CPUs, there can be at most 132; at most 8"),
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

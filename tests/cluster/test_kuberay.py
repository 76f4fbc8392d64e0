"""kuberay.yaml against the schemas, and what it starts, without an operator and without Kubernetes."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
import yaml
from packaging.version import Version

from advise_ray.cluster.ray_job import STOP_WAIT, patience
from advise_ray.config import Config, load, to_yaml
from advise_ray.storage.jsonl import read_lines
from tests.cluster.heads import PATH, free_port, running_head
from tests.runs import PATIENCE_S, answers, eventually

CLUSTER = Path(__file__).parents[2] / "cluster"
FILE = CLUSTER / "kuberay.yaml"
SCHEMA = yaml.safe_load(Path(__file__).with_name("kuberay_schema.yaml").read_text())
Tree = dict[str, Any]


def problems(tree: Tree) -> list[str]:
    """What Kubernetes (the schema) and the operator (its `ValidateRayClusterSpec` and `ValidateRayJobSpec`) refuse, and
    what its source makes of the rest."""
    found = [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(tree)
    ]
    if found:
        return found
    cluster = tree["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    by_token = cluster.get("authOptions", {"mode": "disabled"}).get("mode", "token") == "token"
    if not by_token:
        found.append("authOptions: anybody in the Kubernetes cluster may run code")
    elif Version(cluster.get("rayVersion", "0")) < Version("2.52"):
        found.append("authOptions: mode token needs a rayVersion of 2.52 or later")
    if tree["spec"].get("ttlSecondsAfterFinished") and not tree["spec"].get("shutdownAfterJobFinishes"):
        found.append("ttlSecondsAfterFinished: needs shutdownAfterJobFinishes")
    for group in groups:
        name, pod = group.get("groupName", "head"), group["template"]["spec"]
        container = pod["containers"][0]  # Ray's, for the operator
        if group.get("minReplicas", 0) > group.get("maxReplicas", 0):
            found.append(f"{name}: minReplicas is above maxReplicas")
        if any(each["name"].startswith("RAY_AUTH") for each in container.get("env", ())):
            # It then leaves that of the container as it is, and gives its own to all others.
            found.append(f"{name}: a token by hand")
        if missing := {each["name"] for each in container["volumeMounts"]} - {each["name"] for each in pod["volumes"]}:
            found.append(f"{name}: no volume for {missing}")
        if container["resources"]["limits"] != container["resources"]["requests"]:
            found.append(f"{name}: what Ray counts with (limits) is not what the pod has for sure (requests)")
        probes = ("livenessProbe", "readinessProbe")  # 1.5 puts some there that run wget, and have 2 s for it
        found += [f"{name}: no {probe} of its own" for probe in probes if "httpGet" not in container.get(probe, {})]
    return found


@pytest.fixture
def tree() -> Tree:
    return yaml.safe_load(FILE.read_text())


def test_the_operator_takes_it(tree: Tree) -> None:
    assert problems(tree) == []
    cluster = tree["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    groups = {group["groupName"]: group["template"]["spec"]["containers"][0] for group in cluster["workerGroupSpecs"]}
    assert set(groups) == {"gpu", "cpu"}
    assert groups["gpu"]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def change(tree: Tree, path: str, value: Any) -> Tree:
    """A copy, with something else at a dotted path."""
    changed = copy.deepcopy(tree)
    *way, last = path.split(".")
    node = changed
    for step in way:
        node = node[int(step)] if isinstance(node, list) else node[step]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return changed


HEAD = "spec.rayClusterSpec.headGroupSpec.template.spec"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.ttlSecondsAfterFinishd", 600, "'ttlSecondsAfterFinishd' was unexpected"),
        ("spec.rayClusterSpec.authOptions.mode", "tokens", "'tokens' is not one of"),
        ("spec.rayClusterSpec.authOptions", None, "authOptions: anybody"),
        ("spec.rayClusterSpec.rayVersion", "2.51.0", "needs a rayVersion"),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0, "0 is not of type 'string'"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.minReplicas", 5, "gpu: minReplicas is above maxReplicas"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas", None, "'maxReplicas' is a required property"),
        (f"{HEAD}.containers.0.env", [{"name": "RAY_AUTH_MODE", "value": "token"}], "head: a token by hand"),
        (f"{HEAD}.containers.0.readinessProbe", None, "head: no readinessProbe"),
        (f"{HEAD}.volumes", [], "head: no volume for {'shared'}"),
        ("metadata.name", "Advise", "does not match"),
        ("metadata.name", "a" * 48, "is too long"),
    ],
)
def test_what_would_be_wrong_with_it(tree: Tree, path: str, value: Any, said: str) -> None:
    (found,) = problems(change(tree, path, value))
    assert said in found


def test_its_nodes_have_the_image_that_is_built_and_the_ray_that_it_holds(tree: Tree) -> None:
    pinned = dict(line.split("==") for line in (CLUSTER / "constraints.txt").read_text().split("\n") if "==" in line)
    cluster = tree["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == pinned["ray"]
    built = re.findall(r"-t (\S+)", (CLUSTER / "Dockerfile").read_text())
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert {group["template"]["spec"]["containers"][0]["image"] for group in groups} == set(built)


def test_a_run_that_is_stopped_has_the_time_to_save(tree: Tree) -> None:
    wait_s = int(yaml.safe_load(tree["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"])
    assert wait_s >= float(patience(Config())[STOP_WAIT])
    cluster = tree["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (_, pause_s) = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert wait_s < int(pause_s) < pod["terminationGracePeriodSeconds"]


# What follows does what the operator would, with what the file says, on a Ray of this machine.

TOKEN = "7" * 64
BY_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
"""What `authOptions` puts into every container (`SetContainerTokenAuthEnvVars`)."""


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    """Of GCS and of the agent, which the probes ask."""
    return free_port(), free_port()


@pytest.fixture(scope="module")
def waiting(ports: tuple[int, int]) -> Iterator[subprocess.Popen[str]]:
    """A worker's init container, begun before there is a head."""
    loop = f"until ray health-check --address 127.0.0.1:{ports[0]}; do sleep 1; done"
    process = subprocess.Popen(
        ["bash", "-c", loop], env=environment(), stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def dashboard(waiting: subprocess.Popen[str], ports: tuple[int, int]) -> Iterator[str]:
    """A head with the token; with CPUs, since no workers come."""
    gcs, agent = ports
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in BY_TOKEN.items():
                patch.setenv(name, value)
            head = running_head(2, f"--port={gcs}", f"--dashboard-agent-listen-port={agent}")
            address = stack.enter_context(head)
        yield address


def environment() -> dict[str, str]:
    return {**os.environ, **BY_TOKEN, "PATH": PATH}


@pytest.mark.full
def test_a_worker_waits_for_the_head(waiting: subprocess.Popen[str], dashboard: str) -> None:
    assert waiting.wait(timeout=60) == 0


@pytest.mark.full
def test_the_probes_are_answered_without_a_token(tree: Tree, dashboard: str, ports: tuple[int, int]) -> None:
    asked = tree["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["livenessProbe"]
    url = f"http://127.0.0.1:{ports[1]}{asked['httpGet']['path']}"
    eventually(lambda: answers(url), seconds=60)
    assert requests.get(f"{dashboard}/api/jobs/", timeout=5).status_code == 401


@pytest.fixture
def submitter(tree: Tree, dashboard: str, tmp_path: Path) -> Callable[[str], list[str]]:
    """The submitter pod's command (`BuildJobSubmitCommand`, K8sJobMode), in a folder of this machine."""
    spec = tree["spec"]
    entrypoint = spec["entrypoint"].replace("/shared", str(tmp_path))
    runtime_env = json.dumps(json.dumps(yaml.safe_load(spec["runtimeEnvYAML"])))  # the outer as Go quotes

    def command(job: str) -> list[str]:
        at = f"--address {dashboard}"
        submit = f"ray job submit {at} --no-wait --runtime-env-json {runtime_env} --submission-id {job} -- {entrypoint}"
        script = (
            f"if ! ray job status {at} {job} >/dev/null 2>&1 ; then {submit} ; fi ; ray job logs {at} --follow {job}"
        )
        return ["/bin/bash", "-ce", "--", script]

    return command


@pytest.mark.full
def test_it_trains_and_goes_on_when_it_is_applied_again(
    submitter: Callable[[str], list[str]],
    dashboard: str,
    features: Path,
    manifest: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
) -> None:
    own = (f"data.manifest={manifest}", f"data.features={features}", "train.epochs=300")
    (tmp_path / "recipe.yaml").write_text(to_yaml(load(None, [*tiny, *own])))
    run = tmp_path / "runs" / "first"
    first = subprocess.Popen(submitter("one"), env=environment(), stdout=subprocess.PIPE, text=True)
    eventually(lambda: list(run.glob("checkpoints/step_*")), alive=first)
    stop = ["ray", "job", "stop", "--address", dashboard, "one"]
    subprocess.run(stop, env=environment(), check=True, timeout=90)
    said, _ = first.communicate(timeout=90)
    assert json.loads((run / "result.json").read_text())["status"] == "KILLED", said
    second = subprocess.run(submitter("two"), env=environment(), stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["epochs"]) == ("FINISHED", 300), second.stdout
    steps = [line["step"] for line in read_lines(run / "metrics.jsonl") if "train/loss" in line["values"]]
    assert steps == list(range(1, result["steps"] + 1))

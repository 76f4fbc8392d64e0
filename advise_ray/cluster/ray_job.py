"""A job on a cluster: submitted through Ray's Job Submission API, its lines followed, its exit code ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from advise_ray.backend import auth_token
from advise_ray.cluster.shipment import pack
from advise_ray.config import Config
from advise_ray.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

RESULT = "advise-ray-result: "
"""Marks the line of a job's log that holds its standard output, as a JSON string."""
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""Read by the process that Ray keeps beside a job, which has the job's environment."""
RECONNECTS_FOR_S = 120.0
NO_AGENT, AGENT_WAIT_S = "No available agent", 60.0
"""What a head says (ray 2.60) in the first seconds after its job server answers, and how long it may."""
ENDS_IN_S = 30.0
"""What a command takes to put things in order, beside what `train.grace_s` gives it to save."""
POLL_S = 0.5
OnLine = Callable[[str], None]


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server, with Ray's token where this user has one.

    Raises:
        UsageError: the cluster asks for a token, and there is none here or another one.
        ClusterError: nobody answers there.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules", "ray._private.runtime_env.packaging"):
        logging.getLogger(name).setLevel(logging.WARNING)
    has_token = auth_token.use_token()
    try:
        return JobSubmissionClient(None if address == "auto" else address)
    except AuthenticationError:
        raise UsageError(f"{address}: {auth_token.misfit(has_token)}") from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ClusterError(
            f"{address}: no Ray job server answers there ({reason}); is it the dashboard's address?"
        ) from None


def submit(
    client: JobSubmissionClient, arguments: list[str], config: Config | None, env: dict[str, str], on_line: OnLine
) -> str:
    """Ship the package and start `advise-ray ARGUMENTS` on the cluster's head.

    Returns:
        The job's id.

    Raises:
        ClusterError: the job server refuses it.
    """
    with tempfile.TemporaryDirectory() as folder:
        size = pack(Path(folder), config)
        on_line(f"shipping advise-ray ({size / 1e6:.1f} MB)")
        entrypoint = shlex.join(["python", "-m", "advise_ray.cli.on_head", *arguments])
        deadline_s = time.monotonic() + AGENT_WAIT_S
        while True:
            try:
                return client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": folder, "env_vars": env})
            except RuntimeError as error:
                if NO_AGENT in str(error) and time.monotonic() < deadline_s:
                    time.sleep(POLL_S)
                    continue
                reason = str(error).strip().splitlines()[-1][:300]
                raise ClusterError(f"the cluster refuses the job: {reason}") from None


def follow(client: JobSubmissionClient, job_id: str, on_line: OnLine) -> tuple[int, str]:
    """Show a job's lines until it ends; a connection that breaks is made again, and shows what came meanwhile.

    Returns:
        The exit code, and its standard output.

    Raises:
        ClusterError: the cluster is out of reach, or ended the job without letting it say why.
    """
    output, last = "", ""
    for line in _lines(client, job_id):
        if line.startswith(RESULT):
            output = json.loads(line.removeprefix(RESULT))
        else:
            on_line(line)
            last = line or last
    details = client.get_job_info(job_id)
    if details.driver_exit_code is None:
        raise ClusterError(f"job {job_id} is {details.status}: {details.message or last or 'it said nothing'}")
    return details.driver_exit_code, output


def patience(config: Config) -> dict[str, str]:
    """The environment of a job that Ray (2.60: after 3 s) kills no sooner than it had time to save and end."""
    return {STOP_WAIT: str(math.ceil(config.train.grace_s + ENDS_IN_S))}


def stop(client: JobSubmissionClient, job_id: str, env: dict[str, str]) -> None:
    """End a job as Ctrl-C would (Ray sends SIGTERM first), and wait until it has saved and put things in order.

    Args:
        env: what it was submitted with.
    """
    client.stop_job(job_id)
    deadline_s = time.monotonic() + float(env[STOP_WAIT]) + ENDS_IN_S
    while time.monotonic() < deadline_s and not client.get_job_status(job_id).is_terminal():
        time.sleep(POLL_S)


def _lines(client: JobSubmissionClient, job_id: str) -> Iterator[str]:
    """Whole lines, each once."""
    shown, broken_since_s = 0, 0.0
    while True:
        seen = 0
        try:
            for line in _tail(client, job_id):
                seen += 1
                if seen > shown:
                    shown, broken_since_s = seen, 0.0
                    yield line
            if client.get_job_status(job_id).is_terminal():
                return
        except (TimeoutError, RuntimeError, OSError) as error:
            broken_since_s = broken_since_s or time.monotonic()
            if time.monotonic() - broken_since_s > RECONNECTS_FOR_S:
                raise ClusterError(
                    f"the cluster is out of reach for {RECONNECTS_FOR_S:g} s ({error}); job {job_id} may still run: "
                    f"see `ray job status {job_id}` when it is back"
                ) from None
        time.sleep(POLL_S)


def _tail(client: JobSubmissionClient, job_id: str) -> Iterator[str]:
    """The job's log from its first line on, as it grows."""
    chunks = client.tail_job_logs(job_id)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        rest = ""
        try:
            while True:
                *whole, rest = (rest + loop.run_until_complete(anext(chunks))).split("\n")
                yield from whole
        except StopAsyncIteration:
            if rest:
                yield rest
        finally:  # Ctrl-C may have left one under way
            for task in asyncio.all_tasks(loop):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, RuntimeError):
                    loop.run_until_complete(task)


def secrets(names: tuple[str, ...]) -> dict[str, str]:
    """The environment variables that a recipe names, for the job alone.

    Raises:
        UsageError: one is not set here.
    """
    if missing := [name for name in names if name not in os.environ]:
        raise UsageError(
            f"secrets: {', '.join(missing)}: not set in this environment; set it, or leave it out of secrets"
        )
    return {name: os.environ[name] for name in names}

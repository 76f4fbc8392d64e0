"""A job on a cluster: submits it through Ray's Job Submission API, shows its log lines, returns its exit code."""

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
"""Prefix of the log line that holds the job's standard output as a JSON string."""
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""Environment variable for Ray's supervisor process of a job, which shares the job's environment."""
RECONNECTS_FOR_S = 120.0
NO_AGENT, AGENT_WAIT_S = "No available agent", 60.0
"""Error of a head (ray 2.60) in the first seconds after its job server answers, and how long to retry after it."""
ENDS_IN_S = 30.0
"""Time in seconds that a command needs to end, in addition to the time for saving (`train.grace_s`)."""
POLL_S = 0.5
OnLine = Callable[[str], None]


def connect(address: str) -> JobSubmissionClient:
    """Connect to the job server, with Ray's token if this user has one.

    Raises:
        UsageError: the cluster needs a token, but this machine has no token or a different one.
        ClusterError: no job server answers at the address.
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
            f"{address}: no Ray job server answers there ({reason}); give the address of the dashboard"
        ) from None


def submit(
    client: JobSubmissionClient, arguments: list[str], config: Config | None, env: dict[str, str], on_line: OnLine
) -> str:
    """Ship the package and start `advise-ray ARGUMENTS` on the cluster's head.

    Returns:
        The job's id.

    Raises:
        ClusterError: the job server refuses the job.
    """
    with tempfile.TemporaryDirectory() as folder:
        size = pack(Path(folder), config)
        on_line(f"sending advise-ray to the cluster ({size / 1e6:.1f} MB)")
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
                raise ClusterError(f"the cluster refused the job: {reason}") from None


def follow(client: JobSubmissionClient, job_id: str, on_line: OnLine) -> tuple[int, str]:
    """Show a job's log lines until the job ends. A broken connection is reopened, and no line is lost.

    Returns:
        The exit code and the standard output of the job.

    Raises:
        ClusterError: the cluster is unreachable, or it ended the job without an exit code.
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
        raise ClusterError(f"job {job_id} is {details.status}: {details.message or last or 'it printed nothing'}")
    return details.driver_exit_code, output


def patience(config: Config) -> dict[str, str]:
    """Environment variables that give a stopped job enough time to save and end. Ray's default is 3 s (ray 2.60)."""
    return {STOP_WAIT: str(math.ceil(config.train.grace_s + ENDS_IN_S))}


def stop(client: JobSubmissionClient, job_id: str, env: dict[str, str]) -> None:
    """Stop a job as Ctrl-C would (Ray sends SIGTERM first), and wait until it has saved and ended.

    Args:
        env: environment variables of the job's submission.
    """
    client.stop_job(job_id)
    deadline_s = time.monotonic() + float(env[STOP_WAIT]) + ENDS_IN_S
    while time.monotonic() < deadline_s and not client.get_job_status(job_id).is_terminal():
        time.sleep(POLL_S)


def _lines(client: JobSubmissionClient, job_id: str) -> Iterator[str]:
    """Yield complete log lines, each once."""
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
                    f"the cluster has been unreachable for {RECONNECTS_FOR_S:g} s ({error}); job {job_id} may still "
                    f"run: check it with `ray job status {job_id}` when the cluster answers again"
                ) from None
        time.sleep(POLL_S)


def _tail(client: JobSubmissionClient, job_id: str) -> Iterator[str]:
    """Yield the lines of the job's log from the first line on, as they are written."""
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
        finally:  # after Ctrl-C a task can still be running
            for task in asyncio.all_tasks(loop):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, RuntimeError):
                    loop.run_until_complete(task)


def secrets(names: tuple[str, ...]) -> dict[str, str]:
    """Values of the environment variables that a recipe names in `secrets`, to send with the job only.

    Raises:
        UsageError: a variable is not set on this machine.
    """
    if missing := [name for name in names if name not in os.environ]:
        raise UsageError(
            f"secrets: {', '.join(missing)}: not set in this environment; set it, or remove it from secrets"
        )
    return {name: os.environ[name] for name in names}

"""Connects this process to Ray: to an existing cluster, or to a local Ray that ends with the process."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator

import ray
from ray.data import DataContext

from advise_ray.backend import auth_token, process_env
from advise_ray.errors import RayError, UsageError

# A local Ray has one machine, which cannot be preempted. Without the watcher process the start needs less CPU time.
_OF_OUR_OWN = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
_begun: threading.Event | None = None
_own = False
_connected = False
"""Whether `connect` has connected this process. False if its caller (a notebook) had already connected it."""


def connect_ahead() -> None:
    """Start `connect` in a thread, so that Ray starts while other code is imported.

    The next call of `connect` waits for this thread and reports a failure. The thread never ends by itself, because
    Linux ends the processes of a local Ray when the thread that started them ends (PR_SET_PDEATHSIG). At exit, this
    process waits until Ray has started completely.
    """
    global _begun
    _begun = begun = threading.Event()

    def begin() -> None:
        with contextlib.suppress(RayError, UsageError):
            _connect()
        begun.set()
        threading.Event().wait()

    atexit.register(begun.wait)
    threading.Thread(target=begin, name="ray-init", daemon=True).start()


def connect() -> None:
    """Join the cluster that `RAY_ADDRESS` names, or start a local Ray with its dashboard on 127.0.0.1 only.

    Ray's own log lines and progress bars reach the terminal only if the log level of `advise_ray` is DEBUG. Failures
    always reach the user as exceptions.

    Raises:
        UsageError: the cluster asks for a token, and this machine has none or a different one.
        RayError: Ray does not start, or this process cannot join the cluster.
    """
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if _begun is not None:
        _begun.wait()
    _connect()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's handler would end the process without any clean-up


def disconnect() -> None:
    """Leave the Ray that `connect` joined or started, and with it all actors that this process has there.

    A Ray to which the caller had connected before stays connected.
    """
    if _connected:
        ray.shutdown()


def _connect() -> None:
    global _own, _connected
    verbose = logging.getLogger("advise_ray").isEnabledFor(logging.DEBUG)
    level = logging.INFO if verbose else logging.ERROR
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        _own = not address
        if not _own and (reason := auth_token.refused(str(address))):
            raise UsageError(f"RAY_ADDRESS {address}: {reason}")
        try:
            with _environ({**process_env.ENVIRONMENT, **_OF_OUR_OWN} if _own else {}):  # Ray's processes inherit these
                ray.init(address or "local", dashboard_host="127.0.0.1", log_to_driver=verbose, logging_level=level)
            _connected = True
        except Exception as error:  # Ray has no exception type for this
            reason = " ".join(str(error).split())[:300]
            raise RayError(f"Ray did not start: {reason}; is the machine very busy, or RAY_ADDRESS wrong?") from error
    context = DataContext.get_current()
    context.enable_progress_bars = verbose
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _environ(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes started inside the `with` block. Values that the user has set stay."""
    added = variables.keys() - os.environ.keys()
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def is_our_own() -> bool:
    """Whether this process has started its own local Ray, which has the right environment and ends with the process."""
    return _own


def environment(variables: dict[str, str]) -> dict[str, dict[str, str]]:
    """The `runtime_env` with these environment variables.

    It is empty on a local Ray: its processes have the variables already, and without a `runtime_env` Ray can reuse an
    idle process instead of starting a new one.
    """
    return {} if _own else {"env_vars": variables}


def available_cpus() -> float:
    """CPUs of the cluster. If this process is not connected: the CPUs that a local Ray would have."""
    if _begun is not None:
        _begun.wait()
    if ray.is_initialized():
        return float(ray.cluster_resources().get("CPU", 0))
    return float(len(os.sched_getaffinity(0)))


def nodes() -> list[tuple[float, float]]:
    """CPUs and GPUs of each node of the cluster. If this process is not connected: those of this machine.

    Raises:
        RayError: this process cannot join the cluster.
    """
    if _begun is not None:
        connect()
    if not ray.is_initialized():
        return [(available_cpus(), available_gpus())]
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(float(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in alive]


def available_gpus() -> float:
    """GPUs of the cluster. If this process is not connected: the GPUs that torch finds."""
    if ray.is_initialized():
        return float(ray.cluster_resources().get("GPU", 0))
    import torch

    return float(torch.cuda.device_count())

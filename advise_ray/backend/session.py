"""The Ray that this process works on: the cluster it runs in, else a local one that ends with the process."""

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

# Nobody takes away the one machine of a Ray of our own, and the watcher is a process (3 CPU seconds to start).
_OF_OUR_OWN = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
_begun: threading.Event | None = None
_own = False
_connected = False
"""This process was connected by `connect`, and not by its caller, as a notebook's is."""


def connect_ahead() -> None:
    """Begin with `connect` in a thread, which the next call of it waits for: Ray starts while other code is imported.

    Its failure is left to that call. The thread stays, since Linux ends the processes of a Ray of our own when the
    thread that started them ends (PR_SET_PDEATHSIG); and this process does not end while Ray is half started.
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
    """Join the cluster that `RAY_ADDRESS` names, or start one in this process with its dashboard on 127.0.0.1 only.

    Ray's own log lines and progress bars reach the terminal only where the log level of `advise_ray` is DEBUG;
    failures reach the user as exceptions either way.

    Raises:
        UsageError: the cluster asks for a token, and there is none here or another one.
        RayError: it does not start, or cannot be joined.
    """
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if _begun is not None:
        _begun.wait()
    _connect()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own aborts the process, and nothing is put in order


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
            with _environ({**process_env.ENVIRONMENT, **_OF_OUR_OWN} if _own else {}):  # which its processes inherit
                ray.init(address or "local", dashboard_host="127.0.0.1", log_to_driver=verbose, logging_level=level)
            _connected = True
        except Exception as error:  # it has no kind of its own for this
            reason = " ".join(str(error).split())[:300]
            raise RayError(f"Ray did not start: {reason}; is the machine very busy, or RAY_ADDRESS wrong?") from error
    context = DataContext.get_current()
    context.enable_progress_bars = verbose
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _environ(variables: dict[str, str]) -> Iterator[None]:
    """Variables for what is started meanwhile, where the user has set nothing else."""
    added = variables.keys() - os.environ.keys()
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def is_our_own() -> bool:
    """Whether this process has started the Ray that it works on, which then has what it needs and ends with it."""
    return _own


def environment(variables: dict[str, str]) -> dict[str, dict[str, str]]:
    """The `runtime_env` with these variables; on a Ray of our own its processes have them already, and one that waits
    for work is taken instead of a new one."""
    return {} if _own else {"env_vars": variables}


def available_cpus() -> float:
    """CPUs of the cluster that this process works on; before it is connected, those that a local one would have."""
    if _begun is not None:
        _begun.wait()
    if ray.is_initialized():
        return float(ray.cluster_resources().get("CPU", 0))
    return float(len(os.sched_getaffinity(0)))


def nodes() -> list[tuple[float, float]]:
    """CPUs and GPUs of each node of the cluster; before this process is connected, of this machine.

    Raises:
        RayError: the cluster that this process was to join cannot be joined.
    """
    if _begun is not None:
        connect()
    if not ray.is_initialized():
        return [(available_cpus(), available_gpus())]
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(float(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in alive]


def available_gpus() -> float:
    """GPUs of the cluster; before this process is connected, those that torch sees."""
    if ray.is_initialized():
        return float(ray.cluster_resources().get("GPU", 0))
    import torch

    return float(torch.cuda.device_count())

"""Connects this process to Ray: to an existing cluster, or to a local Ray that ends with the process."""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

import psutil
import ray
from ray.data import DataContext

from advise_ray.backend import auth_token, process_env, temp_dir
from advise_ray.errors import RayError

# A local Ray has one machine, which cannot be preempted. Without the watcher process the start needs less CPU time.
_OF_OUR_OWN = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
_REMEDIES = {
    errno.ENOSPC: "free some space there, or set RAY_TMPDIR to another directory",
    errno.EDQUOT: "free some space there, or set RAY_TMPDIR to another directory",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.EAGAIN: "end other processes, or raise the limit of processes (`ulimit -u`)",
    errno.ENOMEM: "free some memory",
}
_begun: Future[None] | None = None
"""The start in a thread; None before it, and after a call of `connect` has waited for it."""
_begun_s = 0.0
_own = False
_connected = False
"""Whether `connect` has connected this process. False if its caller (a notebook) had already connected it."""


def connect_ahead() -> None:
    """Start `connect` in a thread, so that Ray starts while other code is imported.

    The next call of `connect` waits for this thread and reports a failure. The thread never ends by itself, because
    Linux ends the processes of a local Ray when the thread that started them ends (PR_SET_PDEATHSIG).
    """
    global _begun, _begun_s
    if ray.is_initialized():
        return
    begun: Future[None] = Future()
    _begun, _begun_s = begun, time.time()

    def begin() -> None:
        try:
            _start()
        except BaseException as error:
            begun.set_exception(error)
            return
        begun.set_result(None)
        threading.Event().wait()

    threading.Thread(target=begin, name="ray-init", daemon=True).start()


def connect() -> None:
    """Join the cluster that `RAY_ADDRESS` names, or start a local Ray, without its dashboard.

    Ray's own log lines reach the terminal of a command only if the log level of `advise_ray` is DEBUG. Failures
    always reach the user as exceptions. Ray starts in a thread: so a signal interrupts this call at once, and Ray does
    not replace this process's signal handlers.

    Raises:
        UsageError: the cluster asks for a token, and this machine has none or a different one.
        RayError: Ray does not start, or this process cannot join the cluster.
    """
    global _begun
    if _begun is None:
        connect_ahead()
    if _begun is not None:
        while not _begun.done():  # not without a limit: a signal just before such a wait would not end it
            wait([_begun], timeout=0.5)
        try:
            _begun.result()
        finally:
            _begun = None  # if it failed, the next call tries again
        if threading.current_thread() is threading.main_thread():
            # Ray's native code has replaced the handler with one that prints a stack trace first.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    context = DataContext.get_current()
    context.enable_progress_bars = _is_verbose()
    context.raise_original_map_exception = True  # see `errors.unwrapped`
    if logging.getLogger("advise_ray").level:  # set by the command; a notebook's loggers stay as they are
        logging.getLogger("ray.train").setLevel(_log_level())
        # Ray Data's errors are tracebacks of exceptions that it also raises.
        logging.getLogger("ray.data").setLevel(logging.INFO if _is_verbose() else logging.CRITICAL)


def is_starting() -> bool:
    """Return whether `connect_ahead` has begun to start Ray and has not ended."""
    return _begun is not None and not _begun.done()


@atexit.register
def end_unfinished_start() -> None:
    """End the processes of a Ray that is still starting. Ray itself would end them only after its start."""
    if is_starting():
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.create_time() > _begun_s - 1:
                    process.kill()


def disconnect() -> None:
    """Leave the Ray that `connect` joined or started, and with it all actors that this process has there.

    A Ray to which the caller had connected before stays connected.
    """
    global _own, _connected
    if _connected:
        ray.shutdown()
    _own = _connected = False


def _start() -> None:
    global _own, _connected
    address = os.environ.get("RAY_ADDRESS") or "local"
    _own = address == "local"
    if not _own:
        auth_token.check(address)
    folder = temp_dir.choose() if _own else None
    how: dict[str, Any] = {"_temp_dir": folder, "log_to_driver": _is_verbose(), "logging_level": _log_level()}
    how |= {"include_dashboard": False} if _own else {}  # ten processes
    try:
        with _environ({**process_env.ENVIRONMENT, **_OF_OUR_OWN} if _own else {}):  # Ray's processes inherit these
            ray.init(address, **how)
    except Exception as error:  # Ray has no exception type for this
        reason = " ".join(str(error).split())[:300]
        if _own:
            raise RayError(f"Ray did not start: {reason}; {_advice(error, folder)}") from error
        raise RayError(f"RAY_ADDRESS {address}: cannot join this Ray: {reason}") from error
    _connected = True


def _advice(error: Exception, folder: str | None) -> str:
    """What to do after our own Ray did not start with its files in `folder`."""
    remedy = _REMEDIES.get(error.errno or 0) if isinstance(error, OSError) else None
    return remedy or f"is the machine very busy, or short of memory? See {folder}/session_latest/logs"


def _is_verbose() -> bool:
    return logging.getLogger("advise_ray").isEnabledFor(logging.DEBUG)


def _log_level() -> int:
    return logging.INFO if _is_verbose() else logging.ERROR


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

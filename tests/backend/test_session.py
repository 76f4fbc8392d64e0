"""The start of Ray: what a signal does to it, and what is told when it fails. `ray.init` is a stand-in."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray

from advise_ray.backend import auth_token, session
from advise_ray.errors import RayError

HANGING = """
import subprocess, sys, threading
import ray
def init(*address, **how):
    child = subprocess.Popen(["sleep", "300"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(child.pid, file=sys.stderr, flush=True)
    threading.Event().wait()
ray.init = init
from advise_ray.__main__ import run
run()
"""


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("_begun", "_own", "_connected"):
        monkeypatch.setattr(session, name, getattr(session, name))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"a video")
    return tmp_path / "videos"


@pytest.mark.parametrize(
    ("numbers", "plain"),
    [((signal.SIGINT,), ""), ((signal.SIGTERM,), ""), ((signal.SIGINT, signal.SIGTERM), ""), ((signal.SIGINT,), "1")],
)
def test_a_signal_ends_the_command_while_ray_starts(
    numbers: tuple[signal.Signals, ...], plain: str, videos: Path, tmp_path: Path
) -> None:
    """With one line and the exit code of an interrupt; the processes that Ray has started end too."""
    line = ["data", "index", "--format", "folder", "--videos", str(videos), "--out", str(tmp_path / "out.parquet")]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, *line],
        env={**env, "ADVISE_RAY_PLAIN_PROCESS": plain},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    pid = int(process.stderr.readline())
    for number in numbers:
        process.send_signal(number)
    started_s = time.monotonic()
    try:
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert time.monotonic() - started_s < 5
    assert process.returncode == 130
    assert stderr == "interrupted\n"
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert not (tmp_path / "out.parquet").exists()


def test_a_signal_prints_no_stack_trace_of_ray(beside: dict[str, str]) -> None:
    script = """
import os, signal, time
from advise_ray.backend import session
from advise_ray.cli import signals
signals.heed()
session.connect()
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
except KeyboardInterrupt:
    print("heard")
"""
    found = subprocess.run([sys.executable, "-c", script], env=beside, capture_output=True, text=True, check=True)
    assert (found.stdout, "SIGTERM received" in found.stderr) == ("heard\n", False)


def test_a_notebook_can_interrupt_and_go_on(unconnected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def init(*address: str, **how: object) -> None:
        calls.append(address)
        begun.set()
        go_on.wait(30)

    monkeypatch.setattr(ray, "init", init)
    before = signal.getsignal(signal.SIGTERM)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores Ctrl-C
    threading.Thread(target=lambda: (begun.wait(30), time.sleep(0.1), os.kill(os.getpid(), signal.SIGINT))).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            session.connect()
    finally:
        signal.signal(signal.SIGINT, ours)
    go_on.set()
    session.connect()  # waits for the same start
    assert calls == [("local",)]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space there, or set RAY_TMPDIR"),
        (OSError(errno.EMFILE, "Too many open files"), "raise the limit of open files"),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "raise the limit of processes"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "free some memory"),
        (Exception("The current node timed out during startup."), "is the machine very busy, or short of memory"),
    ],
)
def test_the_advice_fits_the_error(
    error: Exception, advice: str, unconnected: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(*address: str, **how: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    for _ in range(2):  # the second call tries again
        with pytest.raises(RayError, match=f"^Ray did not start: .*{advice}") as caught:
            session.connect()
        assert "RAY_ADDRESS" not in str(caught.value)


def test_a_ray_that_cannot_be_joined_is_not_told_as_our_own(unconnected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*address: str, **how: object) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with: Ray: 2.40.0")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(auth_token, "check", lambda address: None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(RayError) as caught:
        session.connect()
    assert str(caught.value).startswith("RAY_ADDRESS 10.0.0.1:6379: cannot join this Ray: Version mismatch")
    assert not session.is_our_own()


def test_an_address_where_no_ray_answers_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_token, "ANSWER_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for port in (silent.getsockname()[1], 9):
            with pytest.raises(RayError, match="no Ray answers there; start it, set RAY_ADDRESS to HOST:PORT"):
                auth_token.check(f"127.0.0.1:{port}")

"""The `advise-ray` command, and `python -m advise_ray`.

Effects on the whole process belong to the command and are in this file. `import advise_ray` has none of them.
Setting the environment variable ADVISE_RAY_PLAIN_PROCESS=1 leaves them out.
"""

import atexit
import contextlib
import os
import signal
import sys
from typing import Any

from advise_ray.backend import process_env

PLAIN = "ADVISE_RAY_PLAIN_PROCESS"
RESTARTED = "ADVISE_RAY_RESTARTED"


def run() -> None:
    """Run the command line."""
    _complete_environment()
    if os.environ.get(PLAIN, "") in ("", "0"):
        _restart_with_environment()
        process_env.collect_rarely()
        _run_and_leave()
    else:
        _run()


def _complete_environment() -> None:
    """Set a missing PATH, without which decord fails. Open closed standard streams (`>&-`).

    Otherwise other files would get the numbers of these streams.
    """
    os.environ.setdefault("PATH", os.defpath)
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)  # also after the restart
    os.close(number)


def _run() -> None:
    from advise_ray.cli import signals

    signals.heed()
    try:
        from advise_ray.cli.main import main
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    main(prog_name="advise-ray")


def _restart_with_environment() -> None:
    """Start this command again with `process_env.ENVIRONMENT`: the C library reads it only when a process starts."""
    missing = {name: value for name, value in process_env.ENVIRONMENT.items() if name not in os.environ}
    if sys.platform == "linux" and missing and RESTARTED not in os.environ:
        os.environ.update(missing, **{RESTARTED: "1"})
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (ourselves)


def _run_and_leave() -> None:
    status: int | str | None = 1  # if the command ends with a traceback

    def leave(*_: Any) -> None:
        """End at once, because Python takes seconds to free all imported modules."""
        if session := _session():
            session.end_unfinished_start()
        with contextlib.suppress(OSError, RuntimeError):
            for stream in (sys.__stdout__, sys.stderr):
                if stream is not None:
                    stream.flush()
        os._exit(status if isinstance(status, int) else 1)

    atexit.register(leave)  # registered first, so it is called last
    try:
        _run()
    except SystemExit as end:
        status = end.code or 0
        if (session := _session()) and session.is_starting():
            leave()  # a half-started Ray would wait a minute for the processes that this ends
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, leave)  # while other modules clean up


def _session() -> Any:
    """The module that connects to Ray; None if the command has not imported it."""
    return sys.modules.get("advise_ray.backend.session")


if __name__ == "__main__":
    run()

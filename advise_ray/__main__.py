"""The `advise-ray` command, and `python -m advise_ray`."""

import atexit
import contextlib
import os
import sys

from advise_ray.backend import process_env


def run() -> None:
    """Run the command line."""
    process_env.restart_prepared()
    process_env.collect_rarely()
    status: int | str | None = 1  # of a traceback

    def leave() -> None:
        """Without taking apart what was imported, which takes Python 3.4 s (2 cores)."""
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)

    atexit.register(leave)  # first, and so called last
    from advise_ray.cli.main import main

    try:
        main(prog_name="advise-ray")
    except SystemExit as end:
        status = end.code or 0
        raise


if __name__ == "__main__":
    run()

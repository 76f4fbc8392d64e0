"""The job that `--cluster` submits. Ray's job server runs `python -m advise_ray.cli.on_head NODES …` on the head.

Ray uses the first `python` in the PATH of `ray start`, which is not always the Python that runs Ray. The result is
printed as one marked line, which the submitting machine reads. With `--unmarked` before NODES it is printed as usual;
Slurm jobs use this, because people read their logs.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path

NODES_WAIT_S = 180.0
POLL_S = 1.0


def run() -> None:
    """Run the command, or exit with an error if this Python has no Ray."""
    if find_spec("ray") is None:
        sys.exit(
            f"error: the python of the cluster's head ({sys.executable}) has no Ray; put the bin folder of Ray's "
            "environment first in PATH before you run `ray start` there"
        )
    if sys.argv[1] == "--unmarked":
        _run(sys.argv[2], sys.argv[3:])
    else:
        _run_marked(sys.argv[1], sys.argv[2:])


def _run_marked(nodes: str, arguments: list[str]) -> None:
    """Call `_run`, and print its standard output as one marked last line, which the submitting machine reads."""
    from advise_ray.cluster.ray_job import RESULT

    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            _run(nodes, arguments)
    finally:
        if out.getvalue():
            print(RESULT + json.dumps(out.getvalue()), flush=True)


def _run(nodes: str, arguments: list[str]) -> None:
    """Wait for the nodes, check them, and run the command.

    Args:
        nodes: The cluster file's expectations of the nodes, as JSON.
    """
    from advise_ray.backend import reservation
    from advise_ray.cli import signals
    from advise_ray.cli.main import main
    from advise_ray.cluster import preflight
    from advise_ray.config import load
    from advise_ray.errors import AdviseRayError

    try:
        recipe = _recipe(arguments)
        config = load(recipe, _values(arguments, "--set")) if recipe is not None else None
        expected = json.loads(nodes)
        _connect(NODES_WAIT_S if expected else 0.0)
        if expected:
            preflight.await_nodes(**expected, wait_s=NODES_WAIT_S, on_line=_tell)
        reservation.ask_newcomers = preflight.preflight(config, _tell, _read_everywhere(arguments))
    except AdviseRayError as error:
        for line in str(error).splitlines():
            _tell(f"error: {line}")
        sys.exit(error.exit_code)
    signals.heed()
    main(arguments, prog_name="advise-ray")


def _connect(wait_s: float) -> None:
    """Connect to Ray; retry for `wait_s` seconds while the head starts."""
    from advise_ray.backend import session
    from advise_ray.errors import RayError

    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            return session.connect()
        except RayError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(POLL_S)


def _recipe(arguments: list[str]) -> Path | None:
    """Return the path of the command's configuration: the recipe that came with it, or that of the run it uses."""
    from advise_ray.config import recipes

    for name in _values(arguments, "--config"):
        return recipes.find(name)
    for run_dir in _values(arguments, "--resume"):
        path = Path(run_dir) / "config.yaml"
        return path if path.is_file() else None
    used = [Path(argument) / "config.yaml" for argument in arguments]  # the run that `evaluate` or `embed` uses
    return next((path for path in used if path.is_file()), None)


def _values(arguments: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(arguments) if name == option]


def _read_everywhere(arguments: list[str]) -> list[str]:
    """Return existing files that all nodes must read but that no recipe names.

    Missing files are left out: the command itself reports them.
    """
    from advise_ray.cluster.preflight import some_videos

    read = []
    if videos := _values(arguments, "--videos"):
        read = videos[:1]
    elif "check" in arguments:
        read = some_videos([Path(arguments[arguments.index("check") + 1])])
    return [path for path in read if Path(path).exists()]


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run()

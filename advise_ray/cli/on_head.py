"""The other end of `--cluster`: what Ray's job server starts on the head. `python -m advise_ray.cli.on_head NODES …`.

That is the first `python` in the PATH of `ray start`, which is not always the one that runs Ray. With `--unmarked`
before NODES it is for a log that people read, as a Slurm job's.
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
    """Run the command, or say that this is not Ray's Python."""
    if find_spec("ray") is None:
        sys.exit(
            f"error: the head's python ({sys.executable}) has no Ray; start Ray there with the bin folder of its "
            "environment first in PATH"
        )
    if sys.argv[1] == "--unmarked":
        _run(sys.argv[2], sys.argv[3:])
    else:
        _run_marked(sys.argv[1], sys.argv[2:])


def _run_marked(nodes: str, arguments: list[str]) -> None:
    """`_run`, for who reads its log from elsewhere: its standard output is the last line, marked."""
    from advise_ray.cluster.ray_job import RESULT

    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            _run(nodes, arguments)
    finally:
        if out.getvalue():
            print(RESULT + json.dumps(out.getvalue()), flush=True)


def _run(nodes: str, arguments: list[str]) -> None:
    """Wait for the nodes, check them, run the command.

    Args:
        nodes: JSON, what the cluster file says of them.
    """
    from advise_ray.backend import reservation
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
    main(arguments, prog_name="advise-ray")


def _connect(wait_s: float) -> None:
    """A head that is still starting is waited for."""
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
    """The configuration that the command will work by: the one that came with it, or a run's own."""
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
    """The files that all nodes read though no recipe names them, and that the head sees: what it does not see either,
    the command itself tells of."""
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

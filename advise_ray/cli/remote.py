"""A command as a job on a cluster's head: the nodes first, then the command itself."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import click

NODES_WAIT_S = 180.0


def run(nodes: str, arguments: list[str]) -> None:
    """Wait for the nodes, check them, run the command; its standard output is the last line, marked.

    Args:
        nodes: JSON, what the cluster file says of them.
    """
    from advise_ray.cluster.job import RESULT

    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            _run(json.loads(nodes), arguments)
    finally:
        if out.getvalue():
            print(RESULT + json.dumps(out.getvalue()), flush=True)


def _run(nodes: dict[str, object], arguments: list[str]) -> None:
    from advise_ray import room, runtime
    from advise_ray.cli import main
    from advise_ray.cluster import preflight
    from advise_ray.config import load
    from advise_ray.errors import AdviseRayError

    try:
        runtime.connect()
        if nodes:
            preflight.await_nodes(**nodes, wait_s=NODES_WAIT_S, on_line=_tell)  # type: ignore[arg-type]
        recipe = _recipe(arguments)
        config = load(recipe) if recipe is not None else None
        room.ask_newcomers = preflight.preflight(config, _tell, _read_everywhere(arguments))
    except AdviseRayError as error:
        for line in str(error).splitlines():
            _tell(f"error: {line}")
        sys.exit(error.exit_code)
    main(arguments, prog_name="advise-ray")


def _recipe(arguments: list[str]) -> Path | None:
    """The configuration that the command will work by: the one that came with it, or a run's own."""
    for option, file in (("--config", ""), ("--resume", "config.yaml")):
        if option in arguments:
            path = Path(arguments[arguments.index(option) + 1]) / file
            return path if path.is_file() else None
    used = [Path(argument) / "config.yaml" for argument in arguments]  # the run that `evaluate` or `embed` uses
    return next((path for path in used if path.is_file()), None)


def _read_everywhere(arguments: list[str]) -> list[str]:
    """The files that all nodes read though no recipe names them, and that the head sees: what it does not see either,
    the command itself tells of."""
    from advise_ray.cluster.preflight import some_videos

    read = []
    if "--videos" in arguments:
        read = [arguments[arguments.index("--videos") + 1]]
    elif "check" in arguments:
        read = some_videos([Path(arguments[arguments.index("check") + 1])])
    return [path for path in read if Path(path).exists()]


def _tell(line: str) -> None:
    click.echo(line, err=True)

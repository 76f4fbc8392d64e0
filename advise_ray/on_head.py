"""The other end of `--cluster`: what Ray's job server starts on the head. `python -m advise_ray.on_head NODES …`.

That is the first `python` in the PATH of `ray start`, which is not always the one that runs Ray. With `--unmarked`
before NODES it is for a log that people read, as a Slurm job's.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec


def run() -> None:
    """Run the command, or say that this is not Ray's Python."""
    if find_spec("ray") is None:
        sys.exit(
            f"error: the head's python ({sys.executable}) has no Ray; start Ray there with the bin folder of its "
            "environment first in PATH"
        )
    from advise_ray.cli import remote

    if sys.argv[1] == "--unmarked":
        remote.run(sys.argv[2], sys.argv[3:])
    else:
        remote.run_marked(sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    run()

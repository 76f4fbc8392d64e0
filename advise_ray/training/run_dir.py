"""Creates the directory of a run, with its first files."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from advise_ray.config import Config, to_yaml
from advise_ray.storage.atomic import write_whole
from advise_ray.video.manifest import write_rejects


def run_dir_of(config: Config) -> Path:
    """`<storage.path>/<tracking.run_name>`. A run without a name is named by its task and the time."""
    name = config.tracking.run_name or f"{config.task}-{datetime.now():%Y%m%d-%H%M%S}"
    return Path(config.storage.path) / name


def begin(config: Config, run_dir: Path) -> None:
    """Create the directory with the configuration and an empty list of rejects. An existing list is kept."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_whole(run_dir / "config.yaml", to_yaml(config))
    if not (run_dir / "rejects.parquet").exists():
        write_rejects([], run_dir / "rejects.parquet")

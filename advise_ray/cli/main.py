"""The `advise-ray` command with all of its subcommands; importing a module adds its commands to the group."""

from advise_ray.cli import bench, cache, data, evaluate, init, inspect, model, search, train, tune
from advise_ray.cli.group import main

__all__ = ["bench", "cache", "data", "evaluate", "init", "inspect", "main", "model", "search", "train", "tune"]

"""The option `--cluster FILE`: runs a command as a job on a Ray cluster."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advise_ray.cli.shared import UserPath, load
from advise_ray.errors import ClusterError, InterruptedRunError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from advise_ray.cluster.cluster_file import Address, Launcher
    from advise_ray.config import Config

OURS = ("cluster", "detach", "down")


def cluster_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--cluster`, `--detach` and `--down` to a command. The job gets all other options of the command."""

    @click.option(
        "--cluster", type=UserPath(), metavar="FILE", help="Run as a job on this cluster (see cluster/README.md)."
    )
    @click.option("--detach", is_flag=True, help="Only with --cluster: submit the job and return at once.")
    @click.option("--down", is_flag=True, help="Only with --cluster: shut the cluster down after the job.")
    @functools.wraps(command)
    def command_or_job(cluster: Path | None, detach: bool, down: bool, **params: Any) -> None:
        if cluster is None:
            if detach or down:
                raise click.UsageError("--detach and --down need --cluster")
            command(**params)
            return
        if detach and down:
            raise click.UsageError("--detach and --down: give only one; --down shuts the cluster down after the job")
        _run_on_cluster(click.get_current_context(), cluster, detach, down)

    return command_or_job


def _run_on_cluster(ctx: click.Context, path: Path, detach: bool, down: bool) -> None:
    from advise_ray.cluster import ray_job
    from advise_ray.cluster.cluster_file import Launcher, read_cluster, refuse_impossible
    from advise_ray.cluster.launcher import take_down
    from advise_ray.config import Config

    cluster = read_cluster(path)
    if down and not isinstance(cluster, Launcher):
        raise click.UsageError(f"--down: {path} is the address of a cluster; this command cannot shut it down")
    arguments, config = _arguments(ctx)
    if config is not None and isinstance(cluster, Launcher):
        refuse_impossible(cluster, config)
    job_config = config or _config_of_run(ctx) or Config()
    env = ray_job.patience(job_config) | ray_job.secrets(job_config.secrets)
    nodes = {"hosts": cluster.hosts, "least_nodes": cluster.least_nodes} if isinstance(cluster, Launcher) else {}
    with _warn_if_left_running(cluster, down), _job_server(cluster) as client:
        job_id = ray_job.submit(client, [json.dumps(nodes), *arguments], config, env, _tell)
        _tell(f"job {job_id}")
        if detach:
            _tell(f"follow the job with: {_ray(cluster, f'job logs --follow {job_id}')}")
            click.echo(job_id)
            return
        code, output = _follow(client, job_id, env, cluster)
    if down and isinstance(cluster, Launcher):
        take_down(cluster, _tell)
    click.echo(output, nl=False)
    sys.exit(code)


@contextlib.contextmanager
def _warn_if_left_running(cluster: Address | Launcher, down: bool) -> Iterator[None]:
    """Warn that the cluster may still run, if the command fails or is interrupted before `--down` shuts it down."""
    from advise_ray.cluster.cluster_file import Launcher

    try:
        yield
    except BaseException:
        if down and isinstance(cluster, Launcher):
            _tell(f"the cluster may still be running and cost money; shut it down with: ray down {cluster.path}")
        raise


@contextlib.contextmanager
def _job_server(cluster: Address | Launcher) -> Iterator[JobSubmissionClient]:
    """Connect to the job server of the cluster; start the cluster first if it is not running."""
    from advise_ray.cluster import ray_job
    from advise_ray.cluster.cluster_file import Address
    from advise_ray.cluster.launcher import bring_up, head_address, tunnel

    if isinstance(cluster, Address):
        yield ray_job.connect(cluster.address)
        return
    with contextlib.ExitStack() as stack:
        client = None
        if head_address(cluster) is not None:
            with contextlib.suppress(ClusterError):
                client = ray_job.connect(stack.enter_context(tunnel(cluster)))
        if client is None:
            bring_up(cluster, _tell)
            client = ray_job.connect(stack.enter_context(tunnel(cluster)))
        yield client


def _follow(
    client: JobSubmissionClient, job_id: str, env: dict[str, str], cluster: Address | Launcher
) -> tuple[int, str]:
    from advise_ray.cluster import ray_job

    try:
        return ray_job.follow(client, job_id, _tell)
    except KeyboardInterrupt:
        ended = f"; the job continues; stop it with: {_ray(cluster, f'job stop {job_id}')}"
        with contextlib.suppress(click.Abort, KeyboardInterrupt):
            if click.confirm(f"\nStop job {job_id} too?", err=True):
                _tell("the job saves its state and ends; press Ctrl-C again to stop waiting for it")
                ray_job.stop(client, job_id, env)
                ended = "; the job has stopped"
        raise InterruptedRunError(f"interrupted{ended}") from None


def _ray(cluster: Address | Launcher, command: str) -> str:
    """Return the shell command that runs `ray COMMAND` on the cluster."""
    from advise_ray.cluster.cluster_file import Address

    if isinstance(cluster, Address):
        return f"ray {command}" + (f" --address {cluster.address}" if cluster.address != "auto" else "")
    return f"ray exec {cluster.path} 'ray {command}'"


def _arguments(ctx: click.Context) -> tuple[list[str], Config | None]:
    """Return the job's command line, with absolute paths, and its configuration, if the job gets one as a file."""
    from advise_ray.cluster.shipment import RECIPE
    from advise_ray.config import flatten, overrides_of

    globally = [f"--{name}" for name in ("verbose", "quiet") if ctx.find_root().params.get(name)]
    arguments = [*globally, *ctx.command_path.split()[1:]]
    config, overrides = None, ctx.params.get("overrides", ())
    begun = any(ctx.params.get(name) for name in ("run_dir", "sweep_dir"))
    suited = not begun and ctx.params.get("videos") is not None and ctx.params.get("recipe", "") is None
    if suited:  # `train --videos` chooses its settings in the job
        from advise_ray.cli.train import base_of

        base, ahead = base_of(overrides)
        config = load(base, (*ahead, *overrides))
    elif "recipe" in ctx.params and not begun:
        config = load(ctx.params["recipe"] or "quickstart", overrides)
    for param in ctx.command.params:
        value = ctx.params.get(str(param.name))
        if param.name in OURS or value is None or value is False or value == ():
            continue
        if config is not None and param.name in ("recipe", "overrides") and not suited:
            continue
        values = value if isinstance(value, tuple) else (value,)
        for each in values:
            flag = [param.opts[0]] if isinstance(param, click.Option) else []
            arguments += flag if value is True else [*flag, _argument_text(param, each)]
    if config is None:
        return arguments, None
    if suited:
        return [*arguments, *(part for each in _places(config) for part in ("--set", each))], config
    if ctx.params["recipe"] is None and config.data.manifest is None:  # `train` synthesizes its videos there
        asked = {"storage.path", *(override.partition("=")[0] for override in ctx.params["overrides"])}
        given = {
            key: value
            for key, value in flatten(config).items()
            if any(key == each or key.startswith(each + ".") for each in asked)
        }
        return [*arguments, *(part for each in overrides_of(given) for part in ("--set", each))], config
    return [*arguments, "--config", RECIPE], config


def _places(config: Config) -> list[str]:
    """The setting of the run's storage, with an absolute path."""
    from advise_ray.config import overrides_of

    return overrides_of({"storage.path": str(config.storage.path)})


def _config_of_run(ctx: click.Context) -> Config | None:
    """Return the configuration of the run or sweep that the command resumes or uses, if this machine can read it."""
    from advise_ray import config as configuration

    for name in ("run_dir", "sweep_dir", "target"):
        path = Path(str(ctx.params.get(name))) / "config.yaml"
        if path.is_file():
            return configuration.load(path)
    return None


def _argument_text(param: click.Parameter, value: Any) -> str:
    from advise_ray.config import flatten, recipes
    from advise_ray.deploy.load import MLFLOW_URI
    from advise_ray.storage import remote
    from advise_ray.training.run_dir import PLACES

    if isinstance(param.type, click.Path):
        return str(Path(value).absolute())
    if param.name == "overrides" and (key := str(value).partition("=")[0]) in PLACES:
        return f"{key}={json.dumps(flatten(load(None, (value,)))[key])}"
    if param.metavar == "CHECKPOINT_OR_RUN" and (value in recipes.shipped() or MLFLOW_URI.match(str(value))):
        return str(value)
    if param.metavar in ("DIR_OR_URL", "CHECKPOINT_OR_RUN"):
        return remote.local_or_url(str(value))
    return str(value)


def _tell(line: str) -> None:
    click.echo(line, err=True)

"""The `advise-ray` command: parse, call, print. Everything heavy is imported inside the commands."""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import click

from advise_ray import __version__
from advise_ray.errors import AdviseRayError, InterruptedRunError

if TYPE_CHECKING:
    from advise_ray.config import Config
    from advise_ray.video.decode import Limits

FORMATS = ("ucf101", "hmdb51", "diving48", "ssv2", "kinetics", "list", "folder")
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


class _Main(click.Group):
    """Errors become one message and an exit code, never a traceback (unless `-v` asks for one)."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AdviseRayError as error:
            if ctx.params.get("verbose") and not isinstance(error, InterruptedRunError):
                logging.getLogger("advise_ray").exception("where it happened:")
            for line in str(error).splitlines():
                click.echo(f"error: {line}", err=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:  # whoever read our output has gone: click ends quietly
            raise
        except OSError as error:
            click.echo(f"error: {error.filename or 'system'}: {error.strerror or error}", err=True)
            sys.exit(AdviseRayError.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(InterruptedRunError.exit_code)


@click.group(cls=_Main, context_settings=SETTINGS)
@click.option("-v", "--verbose", is_flag=True, help="Show Ray's own messages, and where an error came from.")
@click.version_option(__version__, prog_name="advise-ray")
def main(verbose: bool) -> None:
    """Train video models cheaply: a frozen image model, a small temporal module, playback-rate prediction, on Ray."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    if verbose:
        logging.getLogger("advise_ray").setLevel(logging.DEBUG)
    signal.signal(signal.SIGTERM, _terminated)


def _terminated(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


config_option = click.option(
    "--config", "recipe", metavar="FILE", help="A recipe (YAML), or the name of a shipped one."
)
set_option = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key; repeatable.")
timeout_option = click.option(
    "--timeout-s", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True, help="For one video."
)
max_pixels_option = click.option("--max-pixels", type=click.IntRange(1), help="Refuse larger pictures.")
max_duration_option = click.option(
    "--max-duration-s", type=click.FloatRange(0, min_open=True), help="Refuse longer videos."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")


@main.command()
@config_option
@set_option
@click.option("--videos", metavar="DIR_OR_URL", help="Train on this folder of videos; no labels needed.")
@click.option("--resume", "run_dir", type=click.Path(path_type=Path), help="Go on with this run.")
@click.option("--dry-run", is_flag=True, help="Say what would happen; start nothing, write nothing.")
@json_option
def train(
    recipe: str | None,
    overrides: tuple[str, ...],
    videos: str | None,
    run_dir: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train a temporal module. Without --config: the quickstart recipe, on synthesized videos if none are given."""
    from advise_ray import progress

    if run_dir is not None:
        if recipe is not None or overrides or videos is not None:
            raise click.UsageError("--resume goes on with the run's own configuration; it takes no other")
        if dry_run:
            raise click.UsageError(f"--resume has no --dry-run; use --config {run_dir / 'config.yaml'} --dry-run")
        from advise_ray.training.trainer import resume

        with progress.training() as on_line:
            result = resume(run_dir, on_line=on_line)
        _print_result(result, as_json)
        return
    config = _with_manifest(recipe, overrides, videos, dry_run)
    if dry_run:
        from advise_ray.training.plan import make_plan

        _print_plan(make_plan(config).summary(), as_json)
        return
    from advise_ray.training.trainer import train as run

    with progress.training() as on_line:
        result = run(config, on_line=on_line)
    _print_result(result, as_json)


def _with_manifest(recipe: str | None, overrides: tuple[str, ...], videos: str | None, dry_run: bool) -> Config:
    """The configuration, with a manifest made of `--videos`, or of synthesized ones where nothing else is named."""
    config = _load(recipe or "quickstart", overrides)
    if config.data.manifest is not None:
        if videos is not None:
            raise click.UsageError("--videos and data.manifest name two data sets; give one")
        return config
    if videos is None and recipe is not None:
        return config  # planning says what is missing
    if dry_run:
        raise click.UsageError("--dry-run needs data.manifest; make one with `advise-ray data index`")
    from advise_ray import dataset, progress

    with progress.counting("reading videos") as on_progress:
        manifest = dataset.prepare(videos, Path(config.storage.path), on_progress=on_progress)
    return _load(recipe or "quickstart", (*overrides, f"data.manifest={json.dumps(str(manifest), ensure_ascii=False)}"))


@main.group()
def data() -> None:
    """Data sets: make a manifest, make videos to try things on."""


@data.command()
@click.option("--format", "layout", type=click.Choice(FORMATS), required=True)
@click.option("--videos", required=True, metavar="DIR_OR_URL", help="Folder of the videos, local or s3://, http://, ….")
@click.option("--annotations", type=click.Path(path_type=Path), help="Folder (or file) of the data set's lists.")
@click.option("--split", type=click.IntRange(1, 3), help="Official split (ucf101, hmdb51); default 1.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Manifest to write (Parquet).")
@timeout_option
@max_pixels_option
@max_duration_option
@json_option
def index(
    layout: str,
    videos: str,
    annotations: Path | None,
    split: int | None,
    out: Path,
    timeout_s: float,
    max_pixels: int | None,
    max_duration_s: float | None,
    as_json: bool,
) -> None:
    """Read every video once and write the manifest; a second time, read only what has changed."""
    from advise_ray import dataset, progress
    from advise_ray.video import annotations as lists

    videos = videos if "://" in videos else str(Path(videos).absolute())
    if (annotations is None) != (layout == "folder"):
        raise click.UsageError(f"--format {layout} needs {'no ' if layout == 'folder' else ''}--annotations")
    if split is not None and layout not in ("ucf101", "hmdb51"):
        raise click.UsageError(f"--split: {layout} has no numbered splits")
    listing = lists.read(layout, videos, annotations, split or 1)
    with progress.counting("reading videos") as on_progress:
        summary = dataset.index(
            listing,
            videos,
            out.absolute(),
            timeout_s=timeout_s,
            limits=_limits(max_pixels, max_duration_s),
            on_progress=on_progress,
        )
    _print(summary, as_json)


@data.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Rejects to write (Parquet); default: MANIFEST.check.parquet."
)
@click.option("--drop", type=click.Path(path_type=Path), metavar="FILE", help="Write a manifest without them.")
@timeout_option
@max_pixels_option
@max_duration_option
@json_option
def check(
    manifest: Path,
    out: Path | None,
    drop: Path | None,
    timeout_s: float,
    max_pixels: int | None,
    max_duration_s: float | None,
    as_json: bool,
) -> None:
    """Decode every video of a manifest to its end; exit 1 if any of them fails, or is not what it was."""
    from advise_ray import dataset, progress

    rejects = (out or manifest.with_name(manifest.name + ".check.parquet")).absolute()
    with progress.counting("reading videos") as on_progress:
        summary = dataset.check(
            manifest.absolute(),
            rejects,
            drop=drop and drop.absolute(),
            timeout_s=timeout_s,
            limits=_limits(max_pixels, max_duration_s),
            on_progress=on_progress,
        )
    _print(summary, as_json)
    if summary["rejected"]:
        sys.exit(AdviseRayError.exit_code)


@data.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Page to write (HTML).")
@config_option
@set_option
@json_option
def stats(manifest: Path, out: Path, recipe: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Write a page that shows a data set: durations, sizes, classes, which rates fit, clips as the model gets them."""
    from advise_ray import dataset

    _print(dataset.write_report(manifest.absolute(), out.absolute(), _load(recipe, overrides)), as_json)


@data.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--videos", "num_videos", type=click.IntRange(1), default=64, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--format", "layout", type=click.Choice(FORMATS), default="folder", show_default=True)
def synth(directory: Path, num_videos: int, seed: int, layout: Any) -> None:
    """Write small labelled motion videos: eight classes that differ in how things move, not in looks."""
    from advise_ray import progress
    from advise_ray.video.synth import synthesize

    with progress.counting("writing videos") as on_progress:
        synthesize(directory, num_videos, seed, layout, on_progress=on_progress)
    click.echo(str(directory))


@main.command()
@json_option
def models(as_json: bool) -> None:
    """List temporal modules, and image models with their weights' tag, size, features and grid at 224 px."""
    from advise_ray.config import TMMConfig
    from advise_ray.model.catalogue import IMAGE_MODELS, weights_are_here

    rows = [{**vars(model), "here": weights_are_here(model)} for model in IMAGE_MODELS]
    modules = get_args(TMMConfig.model_fields["arch"].annotation)
    if as_json:
        click.echo(json.dumps({"temporal_modules": modules, "image_models": rows}))
        return
    click.echo(f"model.tmm.arch: {', '.join(modules)}\n")
    click.echo(f"{'model.ifm.name':<38} {'model.ifm.weights':<42} {'params':>8} {'features':>9} {'grid':>6}  here")
    for row in rows:
        size = f"{row['parameters_m']:.1f} M"
        grid = f"{row['grid_size']}×{row['grid_size']}"
        here = "yes" if row["here"] else "no"
        click.echo(f"{row['name']:<38} {row['weights']:<42} {size:>8} {row['feature_dim']:>9} {grid:>6}  {here}")


@main.group()
def config() -> None:
    """The configuration: what a recipe resolves to, and every key there is."""


@config.command()
@config_option
@set_option
def show(recipe: str | None, overrides: tuple[str, ...]) -> None:
    """Print the resolved configuration (YAML); without --config the defaults."""
    from advise_ray.config import to_yaml

    click.echo(to_yaml(_load(recipe, overrides)), nl=False)


@config.command()
@click.option("--markdown", is_flag=True, help="A reference table instead of a JSON schema.")
def schema(markdown: bool) -> None:
    """Print the schema of the configuration (JSON Schema)."""
    from advise_ray import config as configuration

    if markdown:
        click.echo(configuration.reference(), nl=False)
    else:
        click.echo(json.dumps(configuration.Config.model_json_schema(), indent=2))


@main.command()
@set_option
@json_option
def doctor(overrides: tuple[str, ...], as_json: bool) -> None:
    """Check this machine: versions, devices, decoders, weights, tracking, disk, shared memory."""
    from advise_ray.doctor import examine

    checks = examine(_load(None, overrides))
    if as_json:
        click.echo(json.dumps({check.name: {"ok": check.ok, "found": check.found} for check in checks}))
    else:
        for check in checks:
            click.echo(f"{'ok     ' if check.ok else 'PROBLEM'} {check.name:<16} {check.found}")
    if not all(check.ok for check in checks):
        sys.exit(AdviseRayError.exit_code)


@main.group()
def bench() -> None:
    """Measure speed and memory on this machine, rivals in the same run."""


@bench.command()
@json_option
def step(as_json: bool) -> None:
    """Time and memory of a training step: AdViSe against an R3D-50 that is trained end to end."""
    from advise_ray.bench import step as bench_step

    def show(row: dict[str, Any]) -> None:
        model = f"{row['kind']} {row['ifm'] or ''}"
        size = f"{row['peak_bytes'] / 2**30:.2f} GiB"
        click.echo(f"{model:<28} {row['clips']:>3} clips {row['precision']} {row['step_s']:8.2f} s {size}", err=True)

    result = bench_step.step(show)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(
            f"8 clips, ViT-B/32: {result['time_ratio']:.1f}× less time, {result['memory_ratio']:.1f}× less memory"
        )


@bench.command()
@json_option
def decode(as_json: bool) -> None:
    """Clips per second that our pipeline decodes, against a plain decord loop and against decoding everything."""
    from advise_ray.bench import decode as bench_decode

    def show(name: str, figures: dict[str, float]) -> None:
        row = "  ".join(f"{arm.removesuffix('_clips_per_s')} {value:.1f}" for arm, value in figures.items())
        click.echo(f"{name:<8} clips/s: {row}", err=True)

    result = bench_decode.decode(show)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(f"memory growth over 5,000 decodes: {result['resident_growth_bytes'] / 2**20:.0f} MiB")


def _limits(max_pixels: int | None, max_duration_s: float | None) -> Limits:
    from advise_ray.video.decode import LIMITS, Limits

    return Limits(max_pixels or LIMITS.max_pixels, max_duration_s or LIMITS.max_duration_s)


def _load(recipe: str | None, overrides: tuple[str, ...]) -> Config:
    from advise_ray import config as configuration
    from advise_ray import recipes

    return configuration.load(recipes.find(recipe) if recipe is not None else None, overrides)


def _print(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(values))
    else:
        for name, value in values.items():
            click.echo(f"{name.replace('_', ' ')}: {_readable(value)}")


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_readable(inner)}" for name, inner in value.items()) or "none"
    return "none" if value is None else str(value)


def _print_plan(summary: dict[str, Any], as_json: bool) -> None:
    notes = summary["notes"]
    _print(summary if as_json else {name: value for name, value in summary.items() if name != "notes"}, as_json)
    if not as_json:
        for note in notes:
            click.echo(f"note: {note}", err=True)


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result))
        return
    from advise_ray import progress

    click.echo(progress.result_table(result))
    click.echo(f"MLflow UI: {result['mlflow_ui']}", err=True)
    if not result["tracking_complete"]:
        click.echo(f"MLflow missed a part; log it with: advise-ray train --resume {result['run_dir']}", err=True)

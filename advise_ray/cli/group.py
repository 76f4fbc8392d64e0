"""The `advise-ray` command group. Slow imports, such as torch and Ray, are inside the commands."""

from __future__ import annotations

import io
import logging
import sys
import threading
from typing import Any, NoReturn, TextIO, cast

import click

from advise_ray import __version__
from advise_ray.backend import resource_wait
from advise_ray.errors import AdviseRayError, InterruptedRunError, unwrapped

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


class _Main(click.Group):
    """Prints errors as one message and sets the exit code. Prints a traceback only with `-v`."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has exited: click then ends without a message
            raise
        except OSError as error:
            click.echo(f"error: {error.filename or 'system'}: {error.strerror or error}", err=True)
            sys.exit(AdviseRayError.exit_code)
        except KeyboardInterrupt:
            _end_interrupted()
        except Exception as error:
            told = unwrapped(error)
            if isinstance(told, AdviseRayError):
                _end_with(told, ctx)
            if _follows_interrupt(error):
                _end_interrupted()
            raise
        finally:
            sys.stdout = sys.stderr  # Ray prints workers' last lines while it shuts down; they are not results


class _ResultStream:
    """Standard output for results alone: text from other threads goes to stderr. Ray prints its warnings in threads."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        in_main = threading.current_thread() is threading.main_thread()
        return (self._out if in_main else sys.stderr).write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


class _Lines(logging.StreamHandler[TextIO]):
    """Writes log lines to stderr. While a progress bar is on the terminal, prints them above it, not into its line."""

    def emit(self, record: logging.LogRecord) -> None:
        progress = sys.modules.get("advise_ray.cli.progress")
        if progress is not None and progress.covers_notes():
            progress.tell(self.format(record))
        else:
            super().emit(record)


@click.group(cls=_Main, context_settings=SETTINGS)
@click.option("-v", "--verbose", is_flag=True, help="Show Ray's messages and the tracebacks of errors.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress, only results, warnings and errors.")
@click.version_option(__version__, prog_name="advise-ray")
def main(verbose: bool, quiet: bool) -> None:
    """Train video models on Ray: a small temporal module on a frozen image model, with playback-rate prediction."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not end a run
    logging.basicConfig(format="%(message)s", handlers=[_Lines(sys.stderr)])
    sys.stdout = cast("TextIO", _ResultStream(sys.stdout))
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    logging.getLogger("advise_ray").setLevel(level)
    if quiet:
        from advise_ray.cli import progress

        progress.console.quiet = True
    resource_wait.show = _show_waiting


def _show_waiting(line: str | None) -> None:
    from advise_ray.cli import progress

    progress.waiting(line)


def _end_with(error: AdviseRayError, ctx: click.Context) -> NoReturn:
    if ctx.params.get("verbose") and not isinstance(error, InterruptedRunError):
        logging.getLogger("advise_ray").exception("traceback of the error:")
    for line in str(error).splitlines():
        click.echo(f"error: {line}", err=True)
    sys.exit(error.exit_code)


def _follows_interrupt(error: BaseException | None) -> bool:
    """Whether an interrupt caused the error, for example in an extension module that was being imported."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _end_interrupted() -> NoReturn:
    click.echo("interrupted", err=True)
    sys.exit(InterruptedRunError.exit_code)

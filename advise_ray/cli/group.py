"""The `advise-ray` command: parse, call, print. Everything heavy is imported inside the commands."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any, NoReturn

import click

from advise_ray import __version__
from advise_ray.backend import resource_wait
from advise_ray.errors import AdviseRayError, InterruptedRunError

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
            _end_interrupted()
        except Exception as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # it hit Ray with a lock in its hands
                _end_interrupted()
            raise


@click.group(cls=_Main, context_settings=SETTINGS)
@click.option("-v", "--verbose", is_flag=True, help="Show Ray's own messages, and where an error came from.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress: results, warnings and errors alone.")
@click.version_option(__version__, prog_name="advise-ray")
def main(verbose: bool, quiet: bool) -> None:
    """Train video models cheaply: a frozen image model, a small temporal module, playback-rate prediction, on Ray."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    if verbose:
        logging.getLogger("advise_ray").setLevel(logging.DEBUG)
    if quiet:
        from advise_ray.cli import progress

        progress.console.quiet = True
    resource_wait.show = _show_waiting
    signal.signal(signal.SIGTERM, _terminated)


def _show_waiting(line: str | None) -> None:
    from advise_ray.cli import progress

    progress.waiting(line)


def _end_interrupted() -> NoReturn:
    click.echo("interrupted", err=True)
    sys.exit(InterruptedRunError.exit_code)


def _terminated(*_: Any) -> NoReturn:
    raise KeyboardInterrupt

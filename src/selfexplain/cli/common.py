"""Report errors and show log messages, in the same way for all commands."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from selfexplain.errors import SelfExplainError

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def report_errors(debug: bool) -> Iterator[None]:
    """Report invalid input and Ctrl-C as one line each, with exit codes 2 and 130.

    Any other exception is a bug and keeps its traceback. With `debug`, invalid input keeps it as well.
    """
    try:
        yield
    except SelfExplainError as error:
        if debug:
            raise
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("\nstopped; run the same command again to continue", err=True)
        raise typer.Exit(130) from None


class _Echo(logging.Handler):
    """Prints log messages without a prefix."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(record.getMessage())


def show_log() -> None:
    """Print the package's log messages: all of them in the main process, errors only in the others."""
    package = logging.getLogger("selfexplain")
    is_main = os.environ.get("RANK", "0") == "0"
    package.setLevel(logging.INFO if is_main else logging.ERROR)
    package.handlers = [_Echo()]
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # a bar per loaded model would hide the important bars

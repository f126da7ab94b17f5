"""`selfexplain demo`."""

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from selfexplain.cli.common import Debug, errors_told
from selfexplain.errors import SelfExplainError
from selfexplain.resources import resource


def demo(
    explainer: Annotated[
        str, typer.Argument(metavar="RUN_OR_ID", help="A run directory, a model directory, a Hub id or a name.")
    ] = "selfexplain/tiny-selfexplainer",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
    debug: Debug = False,
) -> None:
    """Show an explainer on a page of its own: ask it, and see each answer beside a control and what really happens."""
    with errors_told(debug):
        missing = [name for name in ("gradio", "spaces") if find_spec(name) is None]
        if missing:
            raise SelfExplainError(f"the page needs {' and '.join(missing)}: pip install 'selfexplain[space]'.")
        from selfexplain.pipeline.driver import explainer_of

        explainer_of(explainer)  # raises where a run has no explainer yet
        settings = {"SELFEXPLAIN_EXPLAINER": explainer, "GRADIO_SERVER_NAME": host, "GRADIO_SERVER_PORT": str(port)}
        command = [sys.executable, str(resource("spaces/explainer/app.py"))]
        raise typer.Exit(subprocess.run(command, env=os.environ | settings).returncode)

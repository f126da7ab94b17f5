"""The command `selfexplain demo`."""

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from selfexplain.cli.common import Debug, report_errors
from selfexplain.errors import SelfExplainError
from selfexplain.resources import resource

CAN_REPLACE_PROCESS = os.name == "posix"
"""Whether the server can replace this process, so that a signal to the command stops the server."""


def demo(
    explainer: Annotated[
        str, typer.Argument(metavar="RUN_OR_ID", help="Run directory, model directory, Hub id or reserved name.")
    ] = "selfexplain/tiny-selfexplainer",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts connections from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
    debug: Debug = False,
) -> None:
    """Open the demo of an explainer in a local web server: ask questions, and compare answers with measurements."""
    with report_errors(debug):
        missing = [name for name in ("gradio", "spaces") if find_spec(name) is None]
        if missing:
            names = " and ".join(missing)
            verb = "is" if len(missing) == 1 else "are"
            raise SelfExplainError(
                f"The demo needs {names}, which {verb} not installed. Run: pip install 'selfexplain[space]'"
            )
        from selfexplain.runs.find_explainer import find_explainer

        find_explainer(explainer)  # raises if the run has no explainer yet
        settings = {"SELFEXPLAIN_EXPLAINER": explainer, "GRADIO_SERVER_NAME": host, "GRADIO_SERVER_PORT": str(port)}
        command = [sys.executable, str(resource("spaces/explainer/app.py"))]
        environment = os.environ | settings
        if CAN_REPLACE_PROCESS:
            os.execve(command[0], command, environment)
        raise typer.Exit(subprocess.run(command, env=environment).returncode)

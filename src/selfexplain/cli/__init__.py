"""The command line. Each module contains the commands of one subject; the logic is in the other packages."""

from typing import Annotated

import typer

from selfexplain.cli import dataset, demo, explain, jobs, models, publish, recipes, run
from selfexplain.version import __version__

app = typer.Typer(
    name="selfexplain",
    help="Train language models to explain their own computations, and check the explanations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run_command)
app.command("explain")(explain.explain)
app.command("demo")(demo.demo)
app.command("results")(run.results)
app.command("recipes")(recipes.recipes)
app.command("fetch")(models.fetch)
app.command("convert")(models.convert)
app.command("publish")(publish.publish)
app.command("jobs")(jobs.jobs)
app.add_typer(dataset.app, name="dataset")


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit

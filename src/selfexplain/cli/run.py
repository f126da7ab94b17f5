"""The commands `selfexplain run` and `selfexplain results`."""

from pathlib import Path
from typing import Annotated

import typer

from selfexplain.cli.common import Debug, report_errors, show_log
from selfexplain.errors import SelfExplainError
from selfexplain.runs.run_directory import RunDirectory

_OUTPUT = "output_dir="


def run_command(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file, or the name of a packaged recipe; `selfexplain recipes` lists these.",
        ),
    ],
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Recipe values to change; output_dir=DIR sets the run directory."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="The last stage to run: dataset, train, evaluate, compare or card.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Run a recipe: ground truth, training, evaluation, comparison, cards. Finished steps are not repeated."""
    with report_errors(debug):
        from selfexplain.pipeline.driver import run
        from selfexplain.runs.recipe import load_recipe

        show_log()
        overrides = values or []
        directories = [
            Path(value.removeprefix(_OUTPUT)).expanduser() for value in overrides if value.startswith(_OUTPUT)
        ]
        loaded = load_recipe(recipe, [value for value in overrides if not value.startswith(_OUTPUT)])
        directory = RunDirectory(run(loaded, directories[-1] if directories else None, stage))
        if stage not in ("dataset", "train") and directory.results_path.is_file():
            show_results(directory, markdown=False)
        typer.echo("\nWhere to look next:")
        for path, line in directory.contents().items():
            typer.echo(f"  {path}: {line}")


def results(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="The directory of a finished run.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
    debug: Debug = False,
) -> None:
    """Show the scores of a run with their intervals, controls and baselines."""
    with report_errors(debug):
        directory = RunDirectory(Path(run_dir))
        if not directory.results_path.is_file():
            raise SelfExplainError(f"{run_dir} has no results.json. Give the directory of a finished run.")
        show_results(directory, markdown)


def show_results(directory: RunDirectory, markdown: bool) -> None:
    """Print the tables of a run's results, and of its comparison if there is one."""
    from rich import print as rich_print

    from selfexplain.evaluation import comparison_report, report

    results = directory.read_results()
    if markdown:
        typer.echo(report.markdown(results))
        if results.comparison:
            typer.echo(comparison_report.markdown(results.comparison))
    else:
        rich_print(report.tables(results))
        if results.comparison:
            rich_print(comparison_report.tables(results.comparison))

"""`selfexplain run`, `results`, `recipes`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from selfexplain.cli.common import Debug, errors_told, show_log
from selfexplain.errors import SelfExplainError


def run_command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file or the name of a packaged recipe.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Values of the recipe to change; output_dir=DIR is the run directory."
        ),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Stop after dataset, train, evaluate, compare or card.")] = None,
    debug: Debug = False,
) -> None:
    """Run a recipe: ground truth, training, evaluation, comparison, cards. What is done already is not run again."""
    with errors_told(debug):
        from selfexplain.pipeline.driver import run, where_to_look
        from selfexplain.runs.recipe import load_recipe

        show_log()
        given = values or []
        directories = [Path(value.removeprefix("output_dir=")) for value in given if value.startswith("output_dir=")]
        loaded = load_recipe(recipe, [value for value in given if not value.startswith("output_dir=")])
        run_dir = run(loaded, directories[-1] if directories else None, stage)
        if stage not in ("dataset", "train") and (run_dir / "results.json").is_file():
            show_results(run_dir, markdown=False)
        typer.echo("\nWhere to look next:")
        for path, line in where_to_look(run_dir).items():
            typer.echo(f"  {path}: {line}")


def results(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="A finished run directory.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    debug: Debug = False,
) -> None:
    """Show the scores of a run with their intervals, controls and baselines."""
    with errors_told(debug):
        if not (Path(run_dir) / "results.json").is_file():
            raise SelfExplainError(f"{run_dir} has no results.json: give the directory of a finished run.")
        show_results(Path(run_dir), markdown)


def recipes(debug: Debug = False) -> None:
    """List the packaged recipes, the cheapest first."""
    with errors_told(debug):
        from selfexplain.runs.recipe import describe_packaged

        for name, (description, cost) in describe_packaged().items():
            typer.echo(f"{typer.style(name, bold=True)}\n    {description}\n    {cost}")


def show_results(run_dir: Path, markdown: bool) -> None:
    from rich import print as rich_print

    from selfexplain.evaluation import comparison_report, report

    found = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    compared = found.get("comparison")
    if markdown:
        typer.echo(report.markdown(found))
        if compared:
            typer.echo(comparison_report.markdown(compared))
    else:
        rich_print(report.tables(found))
        if compared:
            rich_print(comparison_report.tables(compared))

"""The command line: `selfexplain run`, `explain`, `results`, `recipes`."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from selfexplain import __version__
from selfexplain.errors import SelfExplainError

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer(
    name="selfexplain",
    help="Train language models to explain their own computations, and check what they say.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command("run")
def run_command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file or the name of a packaged recipe.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Values of the recipe to change; output_dir=DIR is the run directory."
        ),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Stop after dataset, train, evaluate or card.")] = None,
    debug: Debug = False,
) -> None:
    """Run a recipe: ground truth, training, evaluation, cards. What is done already is not run again."""
    with _errors_told(debug):
        from pathlib import Path

        from selfexplain.recipes.recipe import load_recipe
        from selfexplain.recipes.run import run, where_to_look

        _show_log()
        given = values or []
        directories = [Path(value.removeprefix("output_dir=")) for value in given if value.startswith("output_dir=")]
        loaded = load_recipe(recipe, [value for value in given if not value.startswith("output_dir=")])
        run_dir = run(loaded, directories[-1] if directories else None, stage)
        if stage not in ("dataset", "train") and (run_dir / "results.json").is_file():
            _show_results(run_dir, markdown=False)
        typer.echo("\nWhere to look next:")
        for path, line in where_to_look(run_dir).items():
            typer.echo(f"  {path}: {line}")


@app.command()
def explain(
    explainer: Annotated[
        str, typer.Argument(metavar="RUN_OR_MODEL", help="A run directory, a model directory or a name.")
    ],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the target reads.")],
    layer: Annotated[int, typer.Option(help="The decoder block whose output is explained.")],
    token: Annotated[int, typer.Option(help="Index of the token in the text; -1 is the last.")] = -1,
    debug: Debug = False,
) -> None:
    """Explain in words what the target holds at one token of a text."""
    with _errors_told(debug):
        from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
        from selfexplain.recipes.run import explainer_of

        _show_log()
        model = SelfExplainerForCausalLM.from_pretrained(explainer_of(explainer))
        vectors = model.capture(text, layers=[layer])[0]  # (T, d)
        if not -len(vectors) <= token < len(vectors):
            raise SelfExplainError(f"token {token}: the text has the tokens 0 to {len(vectors) - 1}.")
        typer.echo(model.explain_feature(vectors[token], layer=layer).text)


@app.command()
def results(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="A finished run directory.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    debug: Debug = False,
) -> None:
    """Show the scores of a run with their intervals, controls and baselines."""
    with _errors_told(debug):
        from pathlib import Path

        if not (Path(run_dir) / "results.json").is_file():
            raise SelfExplainError(f"{run_dir} has no results.json: give the directory of a finished run.")
        _show_results(Path(run_dir), markdown)


@app.command()
def recipes(debug: Debug = False) -> None:
    """List the packaged recipes."""
    with _errors_told(debug):
        from selfexplain.recipes.recipe import describe_packaged

        for name, line in describe_packaged().items():
            typer.echo(f"{name}: {line}")


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _show_results(run_dir: "Path", markdown: bool) -> None:
    from rich import print as rich_print

    from selfexplain.evaluation import report

    found = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    if markdown:
        typer.echo(report.markdown(found))
    else:
        rich_print(report.tables(found))


@contextmanager
def _errors_told(debug: bool) -> Iterator[None]:
    """Bad input is one red line, and being stopped is another; anything else is a bug and keeps its traceback."""
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
    """Shows what the package logs."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(record.getMessage())


def _show_log() -> None:
    package = logging.getLogger("selfexplain")
    package.setLevel(logging.INFO)
    package.handlers = [_Echo()]
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # a bar for each load of a model hides the bars that matter

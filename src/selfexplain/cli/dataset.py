"""The commands `selfexplain dataset stats`, `selfexplain dataset check` and `selfexplain dataset export`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfexplain.cli.common import Debug, report_errors, show_log
from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.dataset_directory import DatasetDirectory

if TYPE_CHECKING:
    from selfexplain.groundtruth.check import RowSource

app = typer.Typer(
    help="Inspect or export a ground-truth dataset, or check it against its target.", no_args_is_help=True
)

Directory = Annotated[str, typer.Argument(metavar="DIR", help="A dataset: runs/<recipe>/datasets/<task>.")]


@app.command("stats")
def stats(directory: Directory, debug: Debug = False) -> None:
    """Show the statistics of a dataset: rows per split, excluded rows, balance."""
    with report_errors(debug):
        dataset = DatasetDirectory(Path(directory))
        if not dataset.statistics_path.is_file():
            raise SelfExplainError(
                f"{dataset.statistics_path} does not exist. Give the directory of one task, "
                "runs/<recipe>/datasets/<task>."
            )
        values = dataset.statistics().to_data()
        del values["schema_version"]
        for line in _lines({name: value for name, value in values.items() if value != {}}):
            typer.echo(line)


@app.command("check")
def check(
    directory: Directory,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows to run again.")] = 100,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that is in the target's repository.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run a sample of the rows again on the target, and compare the results with the stored ones."""
    with report_errors(debug):
        from selfexplain.groundtruth.check import check_dataset

        show_log()
        source = _source_of(Path(directory))
        result = check_dataset(Path(directory), rows, source=source, trust_remote_code=trust_remote_code)
        n_agreeing = result.n_rows - len(result.disagreements)
        typer.echo(f"{n_agreeing} of {result.n_rows} rows are reproduced on {result.target}")
        for row in result.disagreements[:10]:
            typer.echo(f"  {row.split} row {row.row}: stored {row.stored}, now {row.found}")
        if not result.passed:
            raise SelfExplainError(
                "The dataset does not describe this target: too many rows have a different outcome. Build it again."
            )


@app.command("export")
def export(
    directory: Directory,
    out_dir: Annotated[str, typer.Argument(metavar="OUT", help="Directory for the exported parquet files.")],
    format: Annotated[
        str, typer.Option(help="Format of the exported rows; `transluce` is the only one.")
    ] = "transluce",
    debug: Debug = False,
) -> None:
    """Export a dataset in the format of another project, such as the published datasets of Transluce."""
    with report_errors(debug):
        from selfexplain.groundtruth.export import export_dataset

        for path in export_dataset(Path(directory), Path(out_dir), format):
            typer.echo(path)


def _source_of(directory: Path) -> "Callable[[str], RowSource] | None":
    """A function from a task to what its rows were built from, if the directory is in a run."""
    from dataclasses import replace

    from selfexplain.groundtruth.check import RowSource, find_near
    from selfexplain.groundtruth.sources import read_corpus
    from selfexplain.runs.run_directory import RunDirectory

    run = next((run for run in map(RunDirectory, directory.resolve().parents) if run.recipe_path.is_file()), None)
    if run is None:
        return None

    def source(task: str) -> RowSource:
        recipe = run.read_recipe()
        settings = recipe.settings(task)
        if getattr(settings, "saes", None):
            settings = replace(settings, saes=find_near(settings.saes, directory))
        corpus = read_corpus(find_near(recipe.corpus, directory), recipe.seed, recipe.corpus_options)
        return RowSource(settings, corpus, recipe.seed)

    return source


def _lines(values: dict, indent: str = "") -> list[str]:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict) and all(not isinstance(v, dict) for v in value.values()) and len(value) <= 4:
            value = ", ".join(f"{key} {_format(v)}" for key, v in value.items())
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_format(value)}")
    return lines


def _format(value: object) -> str:
    if isinstance(value, list) and len(value) > 12:
        return f"{', '.join(map(str, value[:12]))}, ... ({len(value)} in total)"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)

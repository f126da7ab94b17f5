"""The command `selfexplain publish`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfexplain.cli.common import Debug, report_errors, show_log
from selfexplain.utils.formatting import format_bytes

if TYPE_CHECKING:
    from selfexplain.publishing.repositories import PublishingPlan


def publish(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="The directory of a finished run.")],
    org: Annotated[str, typer.Option(help="The organisation, or your user name, on the Hub.")],
    full: Annotated[bool, typer.Option("--full", help="Merge the trained weights into the base.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List repositories, files and sizes; push nothing.")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="Make new repositories private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Commit to this branch instead of main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open pull requests instead of committing.")] = False,
    base: Annotated[
        str | None, typer.Option(metavar="ID", help="Hub id of a base that the run read from a directory.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace another run that was published under the same names.")
    ] = False,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Also publish the metrics, for evaluate.load('ORG/METRIC').")
    ] = False,
    debug: Debug = False,
) -> None:
    """Push a finished run to the Hub: datasets, results, model, Space and a collection of all of them."""
    with report_errors(debug):
        from selfexplain.publishing import hub
        from selfexplain.resources import resource

        show_log()
        options = hub.Options(full, private, revision, create_pr, base, replace, metrics)
        space = resource("spaces/explainer")
        if dry_run:
            with hub.plan_only(Path(run_dir), org, options, space) as plan:
                _show(plan, org, "private" if private else "public")
            return
        for part in hub.publish(Path(run_dir), org, options, space):
            typer.echo(f"{part.kind}  {part.id}  {part.url}")


def _show(plan: "PublishingPlan", org: str, visibility: str) -> None:
    """Print what would be pushed."""
    for repository in plan.repositories:
        typer.echo(f"{repository.kind} {repository.id}: {repository.title}, {format_bytes(repository.size)}")
        for file in repository.files:
            typer.echo(f"  {format_bytes(file.size):>9}  {file.path}")
    typer.echo(f"collection {org}: {plan.names.collection(plan.recipe.name)}, with all of these repositories")
    size = format_bytes(sum(repository.size for repository in plan.repositories))
    typer.echo(
        f"Nothing was pushed. Without --dry-run: {len(plan.repositories)} {visibility} repositories, {size} in total"
    )

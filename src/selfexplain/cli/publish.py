"""`selfexplain publish`."""

from pathlib import Path
from typing import Annotated

import typer

from selfexplain.cli.common import Debug, errors_told, show_log


def publish(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="The directory of a finished run.")],
    org: Annotated[str, typer.Option(help="The organisation, or your user name, on the Hub.")],
    full: Annotated[bool, typer.Option("--full", help="Merge the trained weights into the base.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List files, sizes and targets; push nothing.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make new repositories private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Commit to this branch, not to main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open pull requests instead.")] = False,
    base: Annotated[str | None, typer.Option(metavar="ID", help="Hub id of a base that was a directory.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of another run of that name.")] = False,
    debug: Debug = False,
) -> None:
    """Push a finished run to the Hub: datasets, results, model, Space and a collection that holds them."""
    with errors_told(debug):
        from selfexplain.publishing import hub
        from selfexplain.resources import resource

        show_log()
        options = hub.Options(full, private, revision, create_pr, base, replace)
        space = resource("spaces/explainer")
        if dry_run:
            with hub.plan_only(Path(run_dir), org, options, space) as plan:
                for repository in plan.repositories:
                    typer.echo(f"{repository.kind} {repository.id}: {repository.title}, {_size(repository.size)}")
                    for file in repository.files:
                        typer.echo(f"  {_size(file.size):>9}  {file.path}")
                typer.echo(f"collection {org}: {plan.names.collection(plan.recipe['name'])}, which holds all of these")
                size = _size(sum(repository.size for repository in plan.repositories))
                seen_by = "private" if private else "public"
                typer.echo(
                    f"nothing is pushed; without --dry-run {len(plan.repositories)} {seen_by} repositories, {size}"
                )
            return
        done = hub.publish(Path(run_dir), org, options, space)
        for part in done:
            typer.echo(f"{part.kind}  {part.id}  {part.url}")


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}" if unit != "B" else f"{n_bytes:.0f} B"
        n_bytes /= 1000
    return f"{n_bytes:.3g} GB"

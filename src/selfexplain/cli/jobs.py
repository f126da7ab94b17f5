"""The command `selfexplain jobs`."""

from typing import Annotated

import typer

from selfexplain.cli.common import Debug, report_errors
from selfexplain.errors import SelfExplainError


def jobs(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="The name of a packaged recipe.")],
    values: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe values to change.")] = None,
    flavor: Annotated[str, typer.Option(help="The machine, such as l4x1 or a100-large.")] = "l4x1",
    org: Annotated[
        str | None, typer.Option(help="Organisation or user to publish the run to. Without it, the results are lost.")
    ] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Start the job, which costs money.")] = False,
    debug: Debug = False,
) -> None:
    """Show the job that runs a recipe on the machines of Hugging Face, with time and cost; --submit starts it."""
    with report_errors(debug):
        from selfexplain.pipeline.jobs import plan_job
        from selfexplain.pipeline.jobs import submit as start
        from selfexplain.utils.formatting import format_duration

        job = plan_job(recipe, values or [], flavor, org)
        typer.echo(job.command)
        typer.echo(f"time: about {format_duration(60 * job.expected.minutes)} on {job.expected.hardware}")
        typer.echo(f"cost: {job.cost}")
        if not job.expected.measured:
            typer.echo("time and memory are estimates; this recipe has not been measured yet")
        if org is None:
            typer.echo("without --org the results are lost, because a job's disk is deleted when the job ends")
        if submit and org is None:
            raise SelfExplainError(
                "--submit was given without --org, so the results of a paid job would be lost. Add --org ORG to "
                "publish them."
            )
        if submit:
            typer.echo(start(job))

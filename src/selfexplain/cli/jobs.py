"""`selfexplain jobs`."""

from typing import Annotated

import typer

from selfexplain.cli.common import Debug, errors_told
from selfexplain.errors import SelfExplainError


def jobs(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="The name of a packaged recipe.")],
    values: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Values of it to change.")] = None,
    flavor: Annotated[str, typer.Option(help="The machine, such as l4x1 or a100-large.")] = "l4x1",
    org: Annotated[str | None, typer.Option(help="Publish the run there; a job's disk is forgotten.")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Start the job; it costs money.")] = False,
    debug: Debug = False,
) -> None:
    """Show the job that runs a recipe on Hugging Face's machines, with its time and cost; --submit starts it."""
    with errors_told(debug):
        from selfexplain.pipeline.jobs import plan_job
        from selfexplain.pipeline.jobs import submit as start
        from selfexplain.utils.formatting import format_duration

        job = plan_job(recipe, values or [], flavor, org)
        typer.echo(job.command)
        typer.echo(f"time: about {format_duration(60 * job.expected.minutes)} on {job.expected.hardware}")
        typer.echo(f"cost: {job.cost}")
        if not job.expected.measured:
            typer.echo("time and memory are estimates: nobody has measured this recipe yet")
        if org is None:
            typer.echo("without --org nothing is kept: a job's disk is forgotten when it ends")
        if submit and org is None:
            raise SelfExplainError(
                "--submit without --org would pay for a run that is lost: say where it is published."
            )
        if submit:
            typer.echo(start(job))

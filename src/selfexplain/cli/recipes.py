"""The command `selfexplain recipes`."""

from typing import Annotated

import typer

from selfexplain.cli.common import Debug, report_errors


def recipes(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="Show one recipe with an estimate of its memory.")
    ] = None,
    values: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe values to change.")] = None,
    debug: Debug = False,
) -> None:
    """List the packaged recipes with time and memory, the cheapest first; or estimate the memory of one recipe."""
    with report_errors(debug):
        from selfexplain.runs.recipe import describe_packaged

        if recipe is not None:
            show_memory(recipe, values or [])
            return
        for name, (description, cost) in describe_packaged().items():
            typer.echo(f"{typer.style(name, bold=True)}\n    {description}\n    {cost}")


def show_memory(recipe: str, values: list[str]) -> None:
    """Print the stated requirements of a recipe and the estimated memory per step."""
    from selfexplain.pipeline.gpu_memory import recipe_memory
    from selfexplain.runs.recipe import Recipe, load_recipe
    from selfexplain.utils.formatting import format_bytes

    loaded = load_recipe(recipe, values)
    typer.echo(f"{typer.style(loaded.name, bold=True)}\n    {loaded.description}\n    {loaded.expected.summary}")
    memory = recipe_memory(loaded) if isinstance(loaded, Recipe) else None
    if memory is None:
        typer.echo("    The memory cannot be estimated, because the configuration of a model is not available.")
        return
    typer.echo(f"    On a GPU: {format_bytes(memory.total)} (an estimate from the sizes of the models). Per step:")
    for line in memory.lines():
        typer.echo(f"      {line}")

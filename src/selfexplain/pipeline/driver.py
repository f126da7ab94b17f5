"""Run a recipe: resolve settings, execute its steps, write the run directory."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from selfexplain.errors import SelfExplainError
from selfexplain.pipeline.gpu_memory import warn_if_too_little_memory
from selfexplain.pipeline.preflight import check_training
from selfexplain.pipeline.registry import PIPELINES, Pipeline
from selfexplain.pipeline.simulator import requests_per_description, simulator
from selfexplain.pipeline.steps import RecipeSteps
from selfexplain.runs.engine import Step, create_run_directory, execute, forget_removed, open_run
from selfexplain.runs.lock import lock_run
from selfexplain.runs.recipe import AnyRecipe, Recipe, check_name, dump_recipe
from selfexplain.runs.revisions import pin
from selfexplain.utils.formatting import format_count
from selfexplain.utils.io import report_full_disk, require_disk_space, write_atomically
from selfexplain.utils.processes import process_state

logger = logging.getLogger(__name__)


PIPELINES.register("explainer", RecipeSteps)


def run(recipe: AnyRecipe, output_dir: Path | None = None, stage: str | None = None) -> Path:
    """Run the steps of a recipe that are not done, and return its run directory.

    Args:
        recipe: the recipe (`load_recipe`).
        output_dir: the run directory; `runs/<recipe>` by default.
        stage: the last stage to run, such as "dataset", "train", "evaluate", "compare" or "card"; None for all.

    Raises:
        SelfExplainError: the name of the recipe is not a file name, the stage does not exist, a model or the corpus
            cannot be loaded, no simulator can score the descriptions, the run directory cannot be used, or the disk is
            full.
    """
    check_name(recipe)
    run_dir = Path("runs", recipe.name) if output_dir is None else Path(output_dir)
    revisions: dict[str, str] = {}
    if isinstance(recipe, Recipe):
        recipe, revisions = pin(recipe, run_dir)
    pipeline = PIPELINES[recipe.kind](recipe, run_dir)
    steps = _until(stage, pipeline, recipe.name)
    requests = _check_simulator(recipe, run_dir, steps)
    require_disk_space(run_dir, recipe.expected.disk_gb)
    state = process_state()
    if state.num_processes > 1 and not all(step.shared for step in steps):
        raise SelfExplainError(
            f"{state.num_processes} processes were launched, but several processes can only compute ground truth. Add "
            "--stage dataset, and run the remaining stages with one process."
        )
    create_run_directory(run_dir)
    with lock_run(run_dir) if state.is_main_process else nullcontext():
        opened = open_run(run_dir, pipeline.identity, recipe.seed, revisions)
        state.wait_for_everyone()  # so that every process sees an empty directory
        _log_plan(recipe, run_dir, steps)
        if requests:
            logger.info(requests)
        if not opened.steps:
            pipeline.check()
            if isinstance(pipeline, RecipeSteps) and any(step.stage == "train" for step in steps):
                check_training(pipeline.recipe, pipeline.target.get())
            if isinstance(recipe, Recipe):
                warn_if_too_little_memory(recipe)
        if state.is_main_process:
            with report_full_disk(run_dir):
                opened.save()  # before the recipe, because a directory with files but no manifest is refused
                write_atomically(opened.directory.recipe_path, dump_recipe(recipe))
                if stage is None:
                    forget_removed(steps, opened)
        execute(steps, opened)
    return run_dir


def _until(stage: str | None, pipeline: Pipeline, name: str) -> list[Step]:
    """The steps up to and including a stage."""
    steps, stages = pipeline.steps(), list(pipeline.stages)
    if stage is None:
        return steps
    if stage not in stages:
        raise SelfExplainError(
            f"Stage {stage!r} does not exist. Recipe {name!r} has the stages {', '.join(stages)}. Give one of them."
        )
    reached = stages[: stages.index(stage) + 1]
    return [step for step in steps if step.stage in reached]


def _check_simulator(recipe: AnyRecipe, run_dir: Path, steps: Sequence[Step]) -> str | None:
    """A message about the requests that scoring will send to a chat model; None if it sends none.

    Raises:
        SelfExplainError: the recipe is evaluated and no simulator can score its descriptions.
    """
    if not isinstance(recipe, Recipe) or all(step.stage != "evaluate" for step in steps):
        return None
    endpoint = simulator(recipe, run_dir)
    if endpoint is None:
        return None
    return (
        f"descriptions are scored by {endpoint.model} at {endpoint.url}: at most "
        f"{format_count(requests_per_description(recipe), 'request')} per description of a test row"
    )


def _log_plan(recipe: AnyRecipe, run_dir: Path, steps: Sequence[Step]) -> None:
    expected = recipe.expected
    logger.info("%s: %s", recipe.name, recipe.description)
    compared = sum(step.name.startswith("compare/train/") for step in steps)
    logger.info("steps: %s", ", ".join(step.name for step in steps if step.stage != "compare"))
    if compared:
        logger.info(
            "then a comparison: %s trained, and all answer the same test rows",
            format_count(compared, "more explainer") + (" is" if compared == 1 else " are"),
        )
    logger.info(
        "expected%s: %s and %g GB of memory on %s; results go to %s",
        "" if expected.measured else " (an estimate)",
        format_count(expected.minutes, "minute"), expected.memory_gb, expected.hardware, run_dir,
    )  # fmt: skip

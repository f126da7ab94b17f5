"""Train a baseline: the explainer of a recipe on the same rows without their vectors."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.pipeline.explainers import train_explainer
from selfexplain.runs.recipe import Recipe
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.tasks import TASKS

if TYPE_CHECKING:
    from selfexplain.groundtruth.sources import Corpus


def tasks_with_vectors(recipe: Recipe) -> tuple[str, ...]:
    """The tasks of a recipe whose questions contain vectors."""
    return tuple(task for task in recipe.tasks if TASKS[task].has_vectors)


def train_without_vectors(recipe: Recipe, run: RunDirectory, corpus: Callable[[], "Corpus"]) -> None:
    """Train the baseline on all tasks of a recipe that have vectors, with the settings of the explainer.

    Its training rows are written to the same directory, and deleted after training.

    Args:
        recipe: the recipe of the explainer.
        run: its run directory, with the datasets.
        corpus: function that reads the recipe's texts.

    Raises:
        SelfExplainError: as `train_explainer`.
    """
    datasets = run.without_vectors / "datasets"
    tasks = tasks_with_vectors(recipe)
    for task in tasks:
        write_without_vectors(run.dataset(task).rows("train"), DatasetDirectory(datasets / task).rows("train"))
    adapter = replace(recipe.adapter, fit_tokens=0, layers=None)
    recipe = replace(recipe, tasks=tasks, adapter=adapter)
    train_explainer(recipe, datasets, run.explainer_without_vectors, corpus, recipe.seed)
    shutil.rmtree(datasets)


def write_without_vectors(path: Path, out: Path) -> None:
    """Copy the columns of a split that training reads, without vectors and without their places in the prompts."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    from selfexplain.evaluation.controls import text_only
    from selfexplain.groundtruth.formats import read_split
    from selfexplain.training.rows import COLUMNS

    table = read_split(path, [*COLUMNS, "group"])
    rows = text_only(table.drop_columns("activations").to_pylist())
    out.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema=table.schema.remove_metadata()), out)

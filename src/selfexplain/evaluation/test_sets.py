"""The rows that explainers are scored on: test splits and out-of-distribution test sets."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.formats import read_rows

if TYPE_CHECKING:
    from selfexplain.target.load import Target, TargetShape

logger = logging.getLogger(__name__)

CHOICE_ROWS = 100
"""Maximum number of validation rows on which baselines are chosen if a chat model scores descriptions."""


@dataclass(frozen=True)
class TestSet:
    """Rows of one task that are scored together.

    Attributes:
        task: name of the task.
        name: name of an out-of-distribution test set; None for the test split.
        indices: indices of the rows in their parquet file.
        rows: the rows themselves.
    """

    __test__ = False  # not a pytest class

    task: str
    name: str | None
    indices: list[int]
    rows: list[dict]

    @property
    def section(self) -> str:
        """Name in logs and of files: `task` or `task/name`."""
        return f"{self.task}/{self.name}" if self.name else self.task


def read_test_sets(datasets: Mapping[str, DatasetDirectory], limit: int | None, seed: int) -> list[TestSet]:
    """Read the test split of each task, followed by its out-of-distribution test sets.

    Args:
        datasets: task -> its dataset.
        limit: maximum number of rows per test set, drawn at random; None for all rows.

    Raises:
        SelfExplainError: a file is missing or has no rows.
    """
    return [
        TestSet(task, name, *held_out(dataset.rows(name or "test"), limit, seed))
        for task, dataset in datasets.items()
        for name in (None, *dataset.out_of_distribution())
    ]


def held_out(path: Path, limit: int | None, seed: int) -> tuple[list[int], list[dict]]:
    """At most `limit` rows of a parquet file, drawn at random: their indices, in order, and the rows.

    Raises:
        SelfExplainError: the file is missing or has no rows.
    """
    rows = read_rows(path)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:limit]).tolist()
    return chosen, [rows[index] for index in chosen]


def validation_rows(dataset: DatasetDirectory, limit: int | None, seed: int) -> list[dict]:
    """At most `limit` rows of the validation split, in random order.

    Raises:
        SelfExplainError: there is no validation split, or it has no rows.
    """
    rows = read_rows(dataset.rows("validation"))
    return [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))[:limit]]


def choice_rows(dataset: DatasetDirectory, limit: int | None, seed: int, uses_endpoint: bool) -> list[dict]:
    """The validation rows on which readers choose their settings and the strongest baseline is chosen.

    Logs a warning and returns no rows if there are none.

    Args:
        limit: maximum number of rows; None for all rows.
        uses_endpoint: whether a chat model scores descriptions. Each row then costs many requests, so there are at most
            `CHOICE_ROWS`.
    """
    if uses_endpoint:
        limit = min(CHOICE_ROWS, limit or CHOICE_ROWS)
    try:
        return validation_rows(dataset, limit, seed)
    except SelfExplainError as error:
        logger.warning("%s: the strongest baseline is not chosen: %s", dataset.root.name, error)
        return []


def check_width(test_set: TestSet, target: "Target | TargetShape") -> None:
    """Check that the vectors of a test set come from the target.

    Raises:
        SelfExplainError: their width differs from the target's.
    """
    widths = {row["activations"].shape[1] for row in test_set.rows if len(row["activations"])}
    if widths - {target.d_model}:
        raise SelfExplainError(
            f"{test_set.section}: the dataset has vectors of width {', '.join(map(str, sorted(widths)))}, but target "
            f"{target.name} has width {target.d_model}. Evaluate on datasets that were built from this target."
        )

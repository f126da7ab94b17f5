"""The interface of builders, which compute the rows of a task's dataset, and their registry."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from selfexplain.groundtruth.config import TASK_CONFIGS
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.row_shards import Rows
from selfexplain.groundtruth.sources import Corpus
from selfexplain.groundtruth.splits import by_split
from selfexplain.target.load import Target
from selfexplain.tasks import Task
from selfexplain.utils.registry import Registry

Row = Mapping[str, Any]
Rerun = Callable[[Target, Row], tuple[str, str]]


@dataclass(frozen=True)
class BuildContext:
    """One dataset to build.

    Attributes:
        task: the question.
        config: settings of the task, an instance of the builder's `config_class`.
        target: the model that is explained.
        corpus: texts, and what a generated corpus adds to them.
        directory: directory of the dataset.
        inputs: everything that the rows depend on, as JSON values, for the hashes of shards.
        seed: seed of the splits and of everything that is drawn.
    """

    task: Task
    config: Any
    target: Target
    corpus: Corpus
    directory: DatasetDirectory
    inputs: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Candidates:
    """Rows from which a dataset is drawn.

    Attributes:
        shards: files of `row_shards.write_row_shard`. Rows are numbered through all of them, in this order.
        statistics: counts from before the rows were computed.
        test_sets: name of an out-of-distribution test set -> its shard.
    """

    shards: Sequence[Path]
    statistics: Mapping[str, Any] = field(default_factory=dict)
    test_sets: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Draw:
    """The rows of each split.

    Attributes:
        splits: split -> indices of its rows among the candidates.
        statistics: counts for `statistics.json`.
        test_sets: name of an additional test set -> indices of its rows among the candidates.
    """

    splits: Mapping[str, Sequence[int]]
    statistics: Mapping[str, Any]
    test_sets: Mapping[str, Sequence[int]] = field(default_factory=dict)


class DatasetBuilder(Protocol):
    """Compute the rows of one task. `items.Builder` implements this for rows that come from independent items."""

    @property
    def config_class(self) -> type:
        """Dataclass of the task's settings."""
        ...

    @property
    def rerun(self) -> Rerun | None:
        """Function that runs the intervention of a row again: `rerun(target, row)` returns the stored and the new
        result as text. None for rows without an intervention."""
        ...

    def for_config(self, config: Any) -> "DatasetBuilder":
        """The builder to use with these settings, such as a different one for published rows."""
        ...

    def columns_for_draw(self, task: Task) -> Sequence[str]:
        """Columns of the candidates that `draw` and `Task.cell` read."""
        ...

    def candidates(self, context: BuildContext) -> Candidates:
        """Compute all rows, in shards below `context.directory.work`.

        Raises:
            SelfExplainError: the source contains no item for this task, or the disk is too small.
        """
        ...

    def draw(self, context: BuildContext, candidates: Candidates, rows: Rows, counts: Sequence[Mapping]) -> Draw:
        """Choose the rows of each split.

        Args:
            rows: all candidates, with the columns of `columns_for_draw`.
            counts: counts of each shard.
        """
        ...


@runtime_checkable
class PreparesRerun(Protocol):
    """A builder whose rows can be run again only with the settings and texts that they were built from."""

    def prepare_rerun(self, context: BuildContext) -> Rerun:
        """A function as `DatasetBuilder.rerun`.

        Args:
            context: the dataset, with the settings, corpus and seed of its run; `inputs` is empty.
        """
        ...


BUILDERS: Registry[DatasetBuilder] = Registry("builder of the task")
"""Task name -> its builder."""


def register(task: Task, builder: DatasetBuilder) -> DatasetBuilder:
    """Register the builder of a task and the dataclass of its settings, and return the builder."""
    TASK_CONFIGS.register(task.name, builder.config_class)
    return BUILDERS.register(task.name, builder)


def split_by_group(rows: Sequence[Row], indices: Iterable[int], seed: int) -> dict[str, list[int]]:
    """Split -> those of `indices` whose row has a group in that split."""
    parts = by_split(({"group": rows[index]["group"], "index": index} for index in indices), seed)
    return {split: [entry["index"] for entry in part] for split, part in parts.items()}

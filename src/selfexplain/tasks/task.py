"""Define the record that describes a task, and the registry of tasks."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selfexplain.utils.registry import Registry

ColumnType = Literal["text", "texts", "flag", "integer", "integers", "real", "reals", "exemplars"]
"""Type of a dataset column; `groundtruth.schema` maps each to a type of `datasets`."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """One kind of question, with everything that does not depend on tensors or files.

    A builder (`groundtruth.builders`), a scorer (`evaluation.scorers`) and, optionally, a card section
    (`publishing.card_sections`) are registered under the same name by the packages that implement them.

    Attributes:
        name: identifier, such as "activation_patching". Recipes, files and directories use it.
        asks: the question as a noun clause, for cards: "what the output becomes when ...".
        short_question: the question as one short sentence, for the tabs of the demo.
        columns: dataset columns that only this task has, in order, with their types.
        query_columns: columns that define the question of a row, for cards.
        metrics: names of the metrics, in the order in which tables show them.
        headline: name of the metric for figures and summaries. Every system is scored by it.
        correct_when: criterion for a correct answer, in words, for calibration.
        dataset_name: name of the published dataset, without the organisation.
        split_unit: noun for a group of rows, such as "fact". No group is in two splits.
        templates: wordings of the question, for tasks whose question is filled from a template.
        has_vectors: whether questions contain activation vectors.
        states_outcome: whether answers are sentences of `tasks.outcome`, which state whether the output changes.
        cell: function that returns the properties of a row that the lookup rule uses; None for tasks without a
            has-changed label.
        strata: columns by whose values test rows are divided, to score each part; results skip missing columns.
        text_column: column with the text that the target reads, for tasks whose rows about one text differ only in a
            vector; None for other tasks.
        max_tokens: upper bound on the tokens of a training row, for memory estimates.
    """

    name: str
    asks: str
    short_question: str
    columns: Mapping[str, ColumnType]
    query_columns: tuple[str, ...]
    metrics: tuple[str, ...]
    headline: str
    correct_when: str
    dataset_name: str
    split_unit: str
    templates: Sequence[str] = ()
    has_vectors: bool = False
    states_outcome: bool = False
    cell: Callable[[Row], Hashable] | None = None
    strata: tuple[str, ...] = ()
    text_column: str | None = None
    max_tokens: int = 512

    @property
    def title(self) -> str:
        """The name in words: "activation patching"."""
        return self.name.replace("_", " ")


TASKS: Registry[Task] = Registry("task")
"""All tasks by name, in the order of tables and cards."""


def register(task: Task) -> Task:
    """Register a task under its name and return it."""
    return TASKS.register(task.name, task)

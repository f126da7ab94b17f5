"""Scorers: everything about scoring that depends on the task.

A task whose answers are sentences of `tasks.outcome` calls `register(OutcomeScorer(TASK))`. Any other task registers an
instance of its own subclass of `Scorer`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation import baselines
from selfexplain.evaluation.metrics import METRICS, Simulator, confusion
from selfexplain.features.description import ABSTENTION, Classes, Description
from selfexplain.features.endpoint import Endpoint
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.tasks import activation_patching, feature_description, input_ablation
from selfexplain.tasks.lookup import lookup_rule
from selfexplain.tasks.outcome import parse
from selfexplain.tasks.task import Task
from selfexplain.utils.registry import Registry

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Scorer(ABC):
    """How answers to one task are scored. The defaults suit a task with free-form answers and `ratio` metrics.

    Attributes:
        correct_metric: the metric that decides whether an answer is correct; None for the task's headline metric.
        uses_selfie: whether SelfIE is a baseline of the task.
        changed_metric: the metric by which `changed_baselines` are scored; None if the task has no such baselines.
    """

    task: Task
    correct_metric: ClassVar[str | None] = None
    uses_selfie: ClassVar[bool] = False
    changed_metric: ClassVar[str | None] = None

    @abstractmethod
    def is_parsable(self, answer: str, simulator: Simulator) -> bool:
        """Whether the metrics can read an answer; one that they cannot read counts as incorrect."""

    def correct(
        self, answers: Sequence[str], rows: Sequence[Row], simulator: Simulator
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which answers are correct (`Task.correct_when`), and for which rows that is known, `(n,)` each.

        By default, answers with a positive score are correct.
        """
        metric = METRICS[self.correct_metric or self.task.headline]
        counted = metric.count(answers, [row[metric.reference] for row in rows], simulator)
        return counted[:, 0] > 0, counted[:, 1] > 0

    def has_confidence(self, answer: str) -> bool:
        """Whether an explainer's confidence in an answer counts; otherwise it is reported as 0."""
        return True

    def simulator(self, dataset: DatasetDirectory, endpoint: Endpoint | None) -> Simulator:
        """The simulator that predicts activations from descriptions, for metrics that need one.

        Args:
            dataset: the task's dataset.
            endpoint: the endpoint with the chat model of the evaluation, if there is one.
        """
        return Simulator()

    def classes(self, dataset: DatasetDirectory) -> Classes:
        """The classes of tokens that answers may name."""
        return {}

    def check(self, rows: Sequence[Row], simulator: Simulator, section: str) -> None:
        """Refuse rows that cannot be scored; `section` names them in errors.

        Raises:
            SelfExplainError: the simulator cannot read the ground truth.
        """
        return None

    def baselines(self, train: Sequence[Row], test: Sequence[Row]) -> dict[str, list[str]]:
        """Systems that answer without an explainer: name -> one answer per test row."""
        return {"nearest_neighbour": baselines.nearest_neighbour(train, test)}

    def changed_baselines(self, train: Sequence[Row], test: Sequence[Row]) -> dict[str, list[bool]]:
        """Systems that only predict whether the output changes: name -> one prediction per test row."""
        return {}

    def count_changed(self, predictions: Sequence[bool], rows: Sequence[Row]) -> np.ndarray:
        """Row statistics of `changed_metric` for has-changed predictions, `(n, k)`."""
        raise SelfExplainError(
            f"{type(self).__name__} has changed_baselines but no count_changed. Define count_changed in the scorer."
        )

    def counts(self, rows: Sequence[Row]) -> dict[str, int] | None:
        """Number of rows per true class; None for tasks without classes."""
        return None

    def strata(self, row: Row, simulator: Simulator) -> dict[str, str]:
        """Property -> value, for properties of a row by which test rows are divided, to score each part."""
        return {name: _in_words(row[name]) for name in self.task.strata if row.get(name) not in (None, "")}

    def simulator_name(self, simulator: Simulator) -> str | None:
        """The name of the simulator in results; None for tasks without one."""
        return None


GROUND_TRUTH = "ground_truth"
"""The system that answers with the ground truth itself: an upper bound, not a baseline."""

SCORERS: Registry[Scorer] = Registry("scorer")
"""One scorer per task, by the task's name."""


def register(scorer: Scorer) -> Scorer:
    """Register a scorer under the name of its task and return it."""
    return SCORERS.register(scorer.task.name, scorer)


@dataclass(frozen=True)
class OutcomeScorer(Scorer):
    """Scorer of tasks whose answers state an outcome (`tasks.outcome`). Rows need a `changed` label."""

    correct_metric: ClassVar[str | None] = "exact_match"
    changed_metric: ClassVar[str | None] = "has_changed_macro_f1"

    def is_parsable(self, answer: str, simulator: Simulator) -> bool:
        return parse(answer) is not None

    def has_confidence(self, answer: str) -> bool:
        """False for an answer that does not state an outcome: it does not claim anything."""
        return parse(answer) is not None

    def changed_baselines(self, train: Sequence[Row], test: Sequence[Row]) -> dict[str, list[bool]]:
        """The lookup rule, if the task defines `Task.cell`, and the majority class."""
        predictions = {} if self.task.cell is None else {"lookup_rule": lookup_rule(self.task.cell, train, test)}
        return {**predictions, "majority": baselines.majority(train, test)}

    def count_changed(self, predictions: Sequence[bool], rows: Sequence[Row]) -> np.ndarray:
        return confusion(predictions, [row["changed"] for row in rows])

    def counts(self, rows: Sequence[Row]) -> dict[str, int] | None:
        n_changed = sum(row["changed"] for row in rows)
        return {"changed": n_changed, "unchanged": len(rows) - n_changed}


@dataclass(frozen=True)
class DescriptionScorer(Scorer):
    """Scorer of feature descriptions: a simulator predicts activations from them."""

    uses_selfie: ClassVar[bool] = True

    def is_parsable(self, answer: str, simulator: Simulator) -> bool:
        """Whether an answer is in the offline grammar or abstains; a chat model reads any answer that is not blank."""
        if simulator.endpoint:
            return bool(answer.strip())
        return answer == ABSTENTION or Description.parse(answer, simulator.classes) is not None

    def correct(
        self, answers: Sequence[str], rows: Sequence[Row], simulator: Simulator
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Correct descriptions have a positive score of at least half of the ground truth's.

        For a feature that the grammar cannot express, it is correct to abstain.
        """
        metric = METRICS[self.task.headline]
        references = [row[metric.reference] for row in rows]
        texts = [*answers, *(row["completion"] for row in rows)]
        answered, truth = np.split(metric.count(texts, references * 2, simulator), 2)
        correct = (answered[:, 0] > 0) & (answered[:, 0] >= truth[:, 0] / 2)
        is_abstention = np.array([text == ABSTENTION for text in texts], bool)
        abstains, should_abstain = np.split(is_abstention, 2)
        correct = np.where(should_abstain, abstains, correct)
        return correct, (answered[:, 1] > 0) & (truth[:, 1] > 0)

    def simulator(self, dataset: DatasetDirectory, endpoint: Endpoint | None) -> Simulator:
        return Simulator(self.classes(dataset), endpoint)

    def classes(self, dataset: DatasetDirectory) -> Classes:
        """The classes of tokens in the statistics of the dataset.

        Raises:
            SelfExplainError: the dataset has no statistics.
        """
        return {name: set(tokens) for name, tokens in dataset.statistics().classes.items()}

    def check(self, rows: Sequence[Row], simulator: Simulator, section: str) -> None:
        """Refuse the offline simulator if the ground truth is in free words: every description would score 0."""
        texts = [row["completion"] for row in rows]
        unread = [text for text in texts if not self.is_parsable(text, simulator)]
        if unread and simulator.endpoint is None:
            raise SelfExplainError(
                f"{section}: the offline simulator cannot read {len(unread)} of {len(texts)} descriptions of the "
                f"ground truth, such as {unread[0]!r}. Name a chat model that reads them: evaluation.endpoint=URL "
                "evaluation.endpoint_model=NAME."
            )

    def baselines(self, train: Sequence[Row], test: Sequence[Row]) -> dict[str, list[str]]:
        """Includes the ground truth. Its score is below 1, so it shows how high an explainer can score."""
        return {**super().baselines(train, test), GROUND_TRUTH: [row["completion"] for row in test]}

    def strata(self, row: Row, simulator: Simulator) -> dict[str, str]:
        """Includes the form of the ground truth's description."""
        description = Description.parse(row["completion"], simulator.classes)
        other = ABSTENTION if row["completion"] == ABSTENTION else "free text"
        return super().strata(row, simulator) | {"form": description.form if description else other}

    def simulator_name(self, simulator: Simulator) -> str | None:
        return simulator.endpoint.model if simulator.endpoint else "offline"


def _in_words(value: Any) -> str:
    """A value of a column as text; a list of numbers as its range."""
    return f"{value[0]}-{value[-1]}" if isinstance(value, list) and value else str(value)


register(DescriptionScorer(feature_description.TASK))
register(OutcomeScorer(activation_patching.TASK))
register(OutcomeScorer(input_ablation.TASK))


def read_classes(datasets: Mapping[str, DatasetDirectory]) -> dict[str, list[str]]:
    """The classes of tokens that answers about these datasets may name, sorted: class -> tokens.

    Args:
        datasets: task -> its dataset.
    """
    classes = {}
    for task, dataset in datasets.items():
        classes.update({name: sorted(tokens) for name, tokens in SCORERS[task].classes(dataset).items()})
    return classes

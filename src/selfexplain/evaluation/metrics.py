"""Metrics: scores of answers against references.

Every metric is a function of sums over rows: `count` turns each row into a few numbers, `value` turns their sums into
the score. Resampling groups therefore only means summing again (`statistics.py`).

To add a metric, write a `count` function, `register` a `Metric`, and name it in the `metrics` of a `Task`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np

from selfexplain.errors import SelfExplainError
from selfexplain.features import chat_simulator
from selfexplain.features.description import Classes, Description
from selfexplain.features.endpoint import Endpoint
from selfexplain.features.simulate import detect, score
from selfexplain.features.windows import Exemplar
from selfexplain.tasks.outcome import Outcome, parse
from selfexplain.utils.registry import Registry

T = TypeVar("T")


@dataclass(frozen=True)
class Simulator:
    """A simulator, which predicts from a description where a feature is active.

    Attributes:
        classes: name -> tokens, the classes that descriptions may name in addition to the built-in ones.
        endpoint: endpoint with a chat model that reads descriptions in any wording; None for the offline simulator,
            which reads only the grammar of `features.description`.
    """

    classes: Classes | None = None
    endpoint: Endpoint | None = None


OFFLINE = Simulator()
"""The offline simulator with the built-in classes."""


@dataclass(frozen=True)
class Metric:
    """A score of answers against references.

    Attributes:
        name: name in results.json.
        meaning: definition of the score, in one sentence.
        reference: dataset column that answers are compared with.
        count: (answers, references, simulator) -> row statistics `(n, k)`.
        value: sums of row statistics `(..., k)` -> scores `(...)`.
    """

    name: str
    meaning: str
    reference: Literal["completion", "scoring_exemplars"]
    count: Callable[[Sequence[str], Sequence[Any], Simulator], np.ndarray]
    value: Callable[[np.ndarray], np.ndarray]

    def __call__(self, answers: Sequence[str], references: Sequence[Any], simulator: Simulator = OFFLINE) -> float:
        """The score, from 0 to 1 (simulator correlation: from -1 to 1).

        Raises:
            SelfExplainError: there are no answers, the number of references differs, or a reference is not a ground
                truth that the metric can read.
        """
        if len(answers) != len(references) or not len(answers):
            raise SelfExplainError(
                f"Metric {self.name!r} got {len(answers)} answers and {len(references)} references. Give one reference "
                "per answer, and at least one of each."
            )
        return float(self.value(self.count(answers, references, simulator).sum(axis=0)))


METRICS: Registry[Metric] = Registry("metric")
"""All metrics by name."""


def ratio(sums: np.ndarray) -> np.ndarray:
    """Sums `(..., k)` of (score, 1, ...) -> means `(...)`; NaN if no row has a score."""
    total, n = sums[..., 0], sums[..., 1]
    return np.divide(total, n, out=np.full(np.shape(n), np.nan), where=n > 0)


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Sums `(..., 6)` of `confusion` -> F1 averaged over both classes `(...)`; a class that never occurs has F1 0."""
    true_positive, predicted, actual = np.moveaxis(sums.reshape(*sums.shape[:-1], 2, 3), -1, 0)
    return (2 * true_positive / np.maximum(predicted + actual, 1)).mean(axis=-1)


def confusion(predicted: Sequence[bool | None], actual: Sequence[bool]) -> np.ndarray:
    """Row statistics `(n, 6)`: (both, predicted, actual) for changed, then for unchanged.

    A prediction of None belongs to neither class: it lowers the recall of the true class and leaves precision as it is.
    """
    predicted_classes = np.array(
        [[p is not None and p, p is not None and not p] for p in predicted], dtype=float
    )  # (n, 2)
    actual_classes = np.array([[a, not a] for a in actual], dtype=float)
    return np.stack([predicted_classes * actual_classes, predicted_classes, actual_classes], axis=-1).reshape(-1, 6)


def row_statistics(values: Sequence[float]) -> np.ndarray:
    """Row statistics `(n, 2)` of a metric whose value is `ratio`: the score of each row, and 1."""
    return np.stack([np.asarray(values, dtype=float), np.ones(len(values))], axis=1)


def _truths(completions: Sequence[str]) -> list[Outcome]:
    outcomes = []
    for index, completion in enumerate(completions):
        if (outcome := parse(completion)) is None:
            raise SelfExplainError(
                f"Reference {index} is {completion!r}, which does not state an outcome. Expected a sentence as "
                "`selfexplain.tasks.outcome.render` writes it."
            )
        outcomes.append(outcome)
    return outcomes


def _exact_match(answers: Sequence[str], completions: Sequence[str], simulator: Simulator) -> np.ndarray:
    return row_statistics([parse(answer) == truth for answer, truth in zip(answers, _truths(completions), strict=True)])


def _content_match(answers: Sequence[str], completions: Sequence[str], simulator: Simulator) -> np.ndarray:
    parsed = [parse(answer) for answer in answers]
    truths = _truths(completions)
    return row_statistics([p is not None and p.output == truth.output for p, truth in zip(parsed, truths, strict=True)])


def _has_changed(answers: Sequence[str], completions: Sequence[str], simulator: Simulator) -> np.ndarray:
    parsed = [parse(answer) for answer in answers]
    return confusion([p.changed if p else None for p in parsed], [truth.changed for truth in _truths(completions)])


def _simulator_correlation(
    answers: Sequence[str], exemplars: Sequence[Sequence[Exemplar]], simulator: Simulator
) -> np.ndarray:
    if simulator.endpoint:
        return _by_endpoint(simulator.endpoint, answers, exemplars, _simulate_each, chance=0.0)
    pairs = zip(answers, exemplars, strict=True)
    return row_statistics([score(Description.parse(answer, simulator.classes), windows) for answer, windows in pairs])


def _detection(answers: Sequence[str], exemplars: Sequence[Sequence[Exemplar]], simulator: Simulator) -> np.ndarray:
    if simulator.endpoint:
        detect_each = partial(chat_simulator.detect_each, seed=0)
        return _by_endpoint(simulator.endpoint, answers, exemplars, detect_each, chance=0.5)
    pairs = zip(answers, exemplars, strict=True)
    return row_statistics([detect(Description.parse(answer, simulator.classes), windows) for answer, windows in pairs])


def _simulate_each(
    endpoint: Endpoint, pairs: Sequence[tuple[str, Sequence[Exemplar]]]
) -> list[tuple[float | None, int]]:
    scores = chat_simulator.simulate_each(endpoint, pairs)
    return [(score.value if score else None, n_unread) for score, n_unread in scores]


def _by_endpoint(
    endpoint: Endpoint,
    answers: Sequence[str],
    exemplars: Sequence[Sequence[Exemplar]],
    score_each: Callable[[Endpoint, Sequence[tuple[str, Sequence[Exemplar]]]], list[tuple[float | None, int]]],
    chance: float,
) -> np.ndarray:
    """Row statistics `(n, 3)`: score, 1, windows without a parsable reply.

    A row without any parsable reply has no score. Blank answers, and rows whose windows are all active or all inactive,
    score `chance`.
    """
    texts = [" ".join(answer.split()) for answer in answers]
    scores = iter(score_each(endpoint, [pair for pair in zip(texts, exemplars, strict=True) if pair[0]]))
    counted = np.zeros((len(texts), 3))
    for row, text in zip(counted, texts, strict=True):
        value, n_unread = next(scores) if text else (None, 0)
        has_score = value is not None or not n_unread
        row[:] = (chance if value is None else value) if has_score else 0, has_score, n_unread
    n_unscored = int((counted[:, 1] == 0).sum())
    if 2 * n_unscored >= len(texts):
        raise SelfExplainError(
            f"The replies of {endpoint.model} on {n_unscored} of {len(texts)} descriptions could not be parsed. Name a "
            "model that follows the requested format with evaluation.endpoint_model=NAME and run the recipe again."
        )
    return counted


def register(metric: Metric) -> Metric:
    """Register a metric under its name and return it."""
    return METRICS.register(metric.name, metric)


register(
    Metric(
        "exact_match",
        "Share of answers that state the true outcome: whether the output changes, and what it is.",
        "completion",
        _exact_match,
        ratio,
    )
)
register(
    Metric(
        "has_changed_macro_f1",
        "F1 of whether the output changes, averaged over both classes; an unparsable answer belongs to neither class.",
        "completion",
        _has_changed,
        macro_f1,
    )
)
register(
    Metric(
        "content_match",
        "Share of answers that name the true output, whether or not they state correctly that it changes.",
        "completion",
        _content_match,
        ratio,
    )
)
register(
    Metric(
        "simulator_correlation",
        "Mean Pearson correlation between the activations simulated from a description and the true ones; 0 for a "
        "description that does not parse.",
        "scoring_exemplars",
        _simulator_correlation,
        ratio,
    )
)
register(
    Metric(
        "detection_balanced_accuracy",
        "Mean balanced accuracy of detecting active windows with a description; 0.5 for a description that does not "
        "parse.",
        "scoring_exemplars",
        _detection,
        ratio,
    )
)

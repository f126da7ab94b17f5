"""Score answers.

Every metric is a function of sums over rows: `count` turns each row into a few numbers, `value` turns their sums into
the score. Resampling then only sums again (`statistics.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from selfexplain.errors import SelfExplainError
from selfexplain.features.describers import chat_model as language
from selfexplain.features.description import Classes, Description
from selfexplain.features.endpoint import Endpoint
from selfexplain.features.simulate import detect, score
from selfexplain.features.windows import Exemplar
from selfexplain.tasks.outcome import Outcome, parse


@dataclass(frozen=True)
class Metric:
    """A score of answers against references.

    Attributes:
        name: as in results.json.
        reference: the column of a row that answers are held against.
        count: (answers, references) -> row statistics `(n, k)`.
        value: sums of row statistics `(..., k)` -> scores `(...)`.
    """

    name: str
    reference: str
    count: Callable[[Sequence[str], Sequence[Any]], np.ndarray]
    value: Callable[[np.ndarray], np.ndarray]

    def __call__(self, answers: Sequence[str], references: Sequence[Any]) -> float:
        """The score, between 0 and 1 (simulator correlation: -1 and 1).

        Raises:
            SelfExplainError: no answers, a different number of references, or a reference that is no ground truth.
        """
        if len(answers) != len(references) or not len(answers):
            raise SelfExplainError(
                f"{len(answers)} answers for {len(references)} references: give one each, at least one."
            )
        return float(self.value(self.count(answers, references).sum(axis=0)))


def ratio(sums: np.ndarray) -> np.ndarray:
    """Sums `(..., k)` of (score, 1, ...) -> means `(...)`; NaN where no row has a score."""
    total, n = sums[..., 0], sums[..., 1]
    return np.divide(total, n, out=np.full(np.shape(n), np.nan), where=n > 0)


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Sums `(..., 6)` of `confusion` -> F1 averaged over both classes `(...)`; a class that never occurs has F1 0."""
    true_positive, predicted, actual = np.moveaxis(sums.reshape(*sums.shape[:-1], 2, 3), -1, 0)
    return (2 * true_positive / np.maximum(predicted + actual, 1)).mean(axis=-1)


def confusion(predicted: Sequence[bool | None], actual: Sequence[bool]) -> np.ndarray:
    """Row statistics `(n, 6)`: (both, predicted, actual) for changed, then for unchanged.

    A prediction of None is neither class: it lowers the recall of the true class and no precision.
    """
    predicted_classes = np.array(
        [[p is not None and p, p is not None and not p] for p in predicted], dtype=float
    )  # (n, 2)
    actual_classes = np.array([[a, not a] for a in actual], dtype=float)
    return np.stack([predicted_classes * actual_classes, predicted_classes, actual_classes], axis=-1).reshape(-1, 6)


def _means(values: Sequence[float]) -> np.ndarray:
    return np.stack([np.asarray(values, dtype=float), np.ones(len(values))], axis=1)


def _truths(completions: Sequence[str]) -> list[Outcome]:
    outcomes = []
    for index, completion in enumerate(completions):
        if (outcome := parse(completion)) is None:
            raise SelfExplainError(
                f"reference {index} is {completion!r}, which states no outcome (`tasks.outcome.render` writes one)."
            )
        outcomes.append(outcome)
    return outcomes


def _exact_match(answers: Sequence[str], completions: Sequence[str]) -> np.ndarray:
    return _means([parse(answer) == truth for answer, truth in zip(answers, _truths(completions), strict=True)])


def _content_match(answers: Sequence[str], completions: Sequence[str]) -> np.ndarray:
    parsed = [parse(answer) for answer in answers]
    truths = _truths(completions)
    return _means([p is not None and p.output == truth.output for p, truth in zip(parsed, truths, strict=True)])


def _has_changed(answers: Sequence[str], completions: Sequence[str]) -> np.ndarray:
    parsed = [parse(answer) for answer in answers]
    return confusion([p.changed if p else None for p in parsed], [truth.changed for truth in _truths(completions)])


def _simulator_correlation(
    answers: Sequence[str], exemplars: Sequence[Sequence[Exemplar]], classes: Classes | None
) -> np.ndarray:
    pairs = zip(answers, exemplars, strict=True)
    return _means([score(Description.parse(answer, classes), windows) for answer, windows in pairs])


def _detection(answers: Sequence[str], exemplars: Sequence[Sequence[Exemplar]], classes: Classes | None) -> np.ndarray:
    pairs = zip(answers, exemplars, strict=True)
    return _means([detect(Description.parse(answer, classes), windows) for answer, windows in pairs])


def _by_endpoint(
    answers: Sequence[str],
    exemplars: Sequence[Sequence[Exemplar]],
    endpoint: Endpoint,
    score_each: Callable[[Endpoint, Sequence[tuple[str, Sequence[Exemplar]]]], list[tuple[float | None, int]]],
    chance: float,
) -> np.ndarray:
    """Row statistics `(n, 3)`: score, 1, windows without a readable reply. A row of such windows alone has no score.

    A blank answer describes nothing, and windows that are all alike tell nothing: both have the score `chance`.
    """
    texts = [" ".join(answer.split()) for answer in answers]
    found = iter(score_each(endpoint, [pair for pair in zip(texts, exemplars, strict=True) if pair[0]]))
    counted = np.zeros((len(texts), 3))
    for row, text in zip(counted, texts, strict=True):
        value, unread = next(found) if text else (None, 0)
        known = value is not None or not unread
        row[:] = (chance if value is None else value) if known else 0, known, unread
    unscored = int((counted[:, 1] == 0).sum())
    if 2 * unscored >= len(texts):
        raise SelfExplainError(
            f"what {endpoint.model} replied on {unscored} of {len(texts)} descriptions cannot be read. Name a model "
            "that keeps to the form it is asked for, with evaluation.endpoint_model=NAME, and run again."
        )
    return counted


def _simulated_each(
    endpoint: Endpoint, pairs: Sequence[tuple[str, Sequence[Exemplar]]]
) -> list[tuple[float | None, int]]:
    return [(score.value if score else None, unread) for score, unread in language.simulate_each(endpoint, pairs)]


def metrics(classes: Classes | None = None, endpoint: Endpoint | None = None) -> dict[str, Metric]:
    """All metrics by name.

    Args:
        classes: name -> tokens, the classes that descriptions may name beside the built-in ones.
        endpoint: its model foretells activations from descriptions, whatever their words; None for the offline
            simulator, which reads the offline grammar. Everything is asked at once, and nothing twice.
    """
    if endpoint:
        simulator = partial(_by_endpoint, endpoint=endpoint, score_each=_simulated_each, chance=0.0)
        detection = partial(
            _by_endpoint, endpoint=endpoint, score_each=partial(language.detect_each, seed=0), chance=0.5
        )
    else:
        simulator, detection = (partial(count, classes=classes) for count in (_simulator_correlation, _detection))
    return {
        metric.name: metric
        for metric in (
            Metric("exact_match", "completion", _exact_match, ratio),
            Metric("has_changed_macro_f1", "completion", _has_changed, macro_f1),
            Metric("content_match", "completion", _content_match, ratio),
            Metric("simulator_correlation", "scoring_exemplars", simulator, ratio),
            Metric("detection_balanced_accuracy", "scoring_exemplars", detection, ratio),
        )
    }


METRICS = metrics()
_OUTCOME_METRICS = ("exact_match", "has_changed_macro_f1", "content_match")
TASK_METRICS = {
    "feature_description": ("simulator_correlation", "detection_balanced_accuracy"),
    "activation_patching": _OUTCOME_METRICS,
    "input_ablation": _OUTCOME_METRICS,
}


def is_parsable(task: str, answer: str, classes: Classes | None = None, endpoint: Endpoint | None = None) -> bool:
    """Whether an answer can be scored at all; one that cannot counts as wrong. An endpoint reads whatever has words."""
    if task != "feature_description":
        return parse(answer) is not None
    return bool(answer.strip()) if endpoint else Description.parse(answer, classes) is not None


def metric_path(name: str) -> str:
    """Where `evaluate.load` finds a metric of `METRICS`, offline.

    Raises:
        SelfExplainError: no such metric.
    """
    if name not in METRICS:
        raise SelfExplainError(f"there is no metric {name!r}. Choose one of {', '.join(METRICS)}.")
    return str(Path(__file__).parent / "evaluate_modules" / name)

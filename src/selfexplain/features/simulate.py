"""Score descriptions offline by how well they predict where a feature is active.

Score a description only on exemplars that it was not written from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfexplain.features.description import Description
from selfexplain.features.highlights import active_windows, highlights
from selfexplain.features.windows import Exemplar

CHANCE = 0.5
"""Balanced accuracy of an uninformative description."""


@dataclass(frozen=True)
class SimulatorScore:
    """A simulator score.

    Attributes:
        value: Pearson correlation; 0 if it is undefined.
        constant: whether it is undefined, because the predictions or the activations are constant.
    """

    value: float
    constant: bool


@dataclass(frozen=True)
class FuzzedWindow:
    """A window in which some tokens are highlighted: either the active tokens, or equally many inactive ones.

    Attributes:
        tokens: decoded tokens.
        highlighted: whether each token is highlighted, `(n_tokens,)`.
        correct: whether the highlighted tokens are the active ones.
    """

    tokens: list[str]
    highlighted: NDArray[np.bool_]
    correct: bool


def simulate(description: Description, tokens: Sequence[str]) -> NDArray[np.float64]:
    """Predicted activations, `(n_tokens,)`: 1 where the description matches, 0 elsewhere."""
    return description.matches(tokens).astype(np.float64)


def correlation(predicted: Sequence[NDArray], exemplars: Sequence[Exemplar]) -> SimulatorScore:
    """Pearson correlation of predicted and true activations over the tokens of all exemplars.

    Args:
        predicted: predicted activations of each exemplar, `(n_tokens,)`.
    """
    flat, actual = (
        np.concatenate([np.zeros(0), *(np.asarray(part, np.float64) for part in parts)])
        for parts in (predicted, [exemplar["activations"] for exemplar in exemplars])
    )
    if not len(flat) or flat.std() == 0 or actual.std() == 0:
        return SimulatorScore(0.0, constant=True)
    return SimulatorScore(float(np.corrcoef(flat, actual)[0, 1]), constant=False)


def simulator_score(description: Description, exemplars: Sequence[Exemplar]) -> SimulatorScore:
    """The simulator score of a description in the offline grammar."""
    return correlation([simulate(description, exemplar["tokens"]) for exemplar in exemplars], exemplars)


def score(description: Description | None, exemplars: Sequence[Exemplar]) -> float:
    """The value of the simulator score; 0 without a description (None if it could not be parsed)."""
    return 0.0 if description is None else simulator_score(description, exemplars).value


def fuzz(exemplars: Sequence[Exemplar], seed: int) -> list[FuzzedWindow]:
    """Each active window twice: with its active tokens highlighted, and with equally many random inactive tokens.

    Windows with fewer inactive than active tokens are left out.
    """
    rng = np.random.default_rng(seed)
    fuzzed = []
    for exemplar, active in zip(exemplars, active_windows(exemplars), strict=True):
        correct = highlights(exemplar)
        if not active or correct.sum() > (~correct).sum():
            continue
        incorrect = np.zeros_like(correct)
        incorrect[rng.choice(np.flatnonzero(~correct), int(correct.sum()), replace=False)] = True
        fuzzed += [
            FuzzedWindow(exemplar["tokens"], correct, True),
            FuzzedWindow(exemplar["tokens"], incorrect, False),
        ]
    return fuzzed


def balanced_accuracy(predicted: Sequence[bool], actual: Sequence[bool]) -> float | None:
    """The mean recall of both classes; None if one class does not occur."""
    answers, truths = np.asarray(predicted, bool), np.asarray(actual, bool)
    if truths.all() or not truths.any():
        return None
    return float((answers[truths].mean() + (~answers[~truths]).mean()) / 2)


def detect(description: Description | None, exemplars: Sequence[Exemplar]) -> float:
    """Balanced accuracy of predicting active windows: a window counts as active if the description matches a token.

    `CHANCE` without a description, or if all windows belong to one class.
    """
    if description is None:
        return CHANCE
    predicted = [bool(description.matches(exemplar["tokens"]).any()) for exemplar in exemplars]
    accuracy = balanced_accuracy(predicted, active_windows(exemplars).tolist())
    return CHANCE if accuracy is None else accuracy


def fuzzing(description: Description | None, exemplars: Sequence[Exemplar], seed: int = 0) -> float:
    """Balanced accuracy of separating correctly from incorrectly highlighted windows.

    A window counts as correctly highlighted if the description matches at least half of the highlighted tokens.
    `CHANCE` without a description, or if no window can be highlighted both ways.
    """
    windows = fuzz(exemplars, seed)
    if description is None or not windows:
        return CHANCE
    predicted = [bool(description.matches(w.tokens)[w.highlighted].mean() >= 0.5) for w in windows]
    accuracy = balanced_accuracy(predicted, [w.correct for w in windows])
    return CHANCE if accuracy is None else accuracy

"""How well a description predicts where a feature is active. Score on exemplars it was not written from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfexplain.features.description import Description
from selfexplain.features.windows import Exemplar

ACTIVE = 0.1  # a window is active if it reaches this fraction of the feature's largest activation
HIGHLIGHTED = 0.3  # a token is highlighted if it reaches this fraction of its window's largest activation


@dataclass(frozen=True)
class Score:
    """A simulator score. It counts as 0, and says so, where the prediction or the activations are constant."""

    value: float
    constant: bool


@dataclass(frozen=True)
class Fuzzed:
    """A window with some tokens highlighted: those the feature is active on, or as many others.

    Attributes:
        highlighted: `(n_tokens,)` bool.
        right: whether they are the active ones.
    """

    tokens: list[str]
    highlighted: NDArray[np.bool_]
    right: bool


def simulate(description: Description, tokens: Sequence[str]) -> NDArray[np.float64]:
    """Predicted activations, `(n_tokens,)`: 1 where the description matches, 0 elsewhere."""
    return description.matches(tokens).astype(np.float64)


def correlation(predicted: Sequence[NDArray], exemplars: Sequence[Exemplar]) -> Score:
    """Pearson correlation of predicted and true activations over all tokens of the exemplars together."""
    flat, actual = (
        np.concatenate([np.zeros(0), *(np.asarray(part, np.float64) for part in parts)])
        for parts in (predicted, [exemplar["activations"] for exemplar in exemplars])
    )
    if not len(flat) or flat.std() == 0 or actual.std() == 0:
        return Score(0.0, constant=True)
    return Score(float(np.corrcoef(flat, actual)[0, 1]), constant=False)


def simulated(description: Description, exemplars: Sequence[Exemplar]) -> Score:
    """Simulator score of a description in the offline grammar."""
    return correlation([simulate(description, exemplar["tokens"]) for exemplar in exemplars], exemplars)


def score(description: Description | None, exemplars: Sequence[Exemplar]) -> float:
    """The same as a number; 0 where there is no description (it could not be parsed)."""
    return 0.0 if description is None else simulated(description, exemplars).value


def active_windows(exemplars: Sequence[Exemplar]) -> NDArray[np.bool_]:
    """Which windows the feature is active in, `(n,)`."""
    peaks = np.array([np.max(exemplar["activations"], initial=0.0) for exemplar in exemplars])
    return peaks > ACTIVE * peaks.max(initial=0.0)


def highlights(exemplar: Exemplar) -> NDArray[np.bool_]:
    """Which tokens the feature is active on, relative to the window's peak, `(n_tokens,)`."""
    activations = np.asarray(exemplar["activations"])
    return (activations > 0) & (activations >= HIGHLIGHTED * activations.max(initial=0.0))


def fuzz(exemplars: Sequence[Exemplar], seed: int) -> list[Fuzzed]:
    """The active windows, each once with the right tokens highlighted and once with as many wrong ones.

    A window that has not enough other tokens is left out.
    """
    rng = np.random.default_rng(seed)
    fuzzed = []
    for exemplar, active in zip(exemplars, active_windows(exemplars), strict=True):
        right = highlights(exemplar)
        if not active or right.sum() > (~right).sum():
            continue
        wrong = np.zeros_like(right)
        wrong[rng.choice(np.flatnonzero(~right), int(right.sum()), replace=False)] = True
        fuzzed += [Fuzzed(exemplar["tokens"], right, True), Fuzzed(exemplar["tokens"], wrong, False)]
    return fuzzed


def balanced_accuracy(predicted: Sequence[bool], actual: Sequence[bool]) -> float | None:
    """Mean of both classes' recall; None where one class is missing."""
    answers, truths = np.asarray(predicted, bool), np.asarray(actual, bool)
    if truths.all() or not truths.any():
        return None
    return float((answers[truths].mean() + (~answers[~truths]).mean()) / 2)


def detect(description: Description | None, exemplars: Sequence[Exemplar]) -> float:
    """Balanced accuracy of telling active windows from inactive ones by whether the description matches any token.

    0.5, chance, where there is no description or all windows are of one kind.
    """
    if description is None:
        return 0.5
    predicted = [bool(description.matches(exemplar["tokens"]).any()) for exemplar in exemplars]
    accuracy = balanced_accuracy(predicted, active_windows(exemplars).tolist())
    return 0.5 if accuracy is None else accuracy


def fuzzing(description: Description | None, exemplars: Sequence[Exemplar], seed: int = 0) -> float:
    """Balanced accuracy of telling rightly from wrongly highlighted windows by whether the description matches at least
    half of what is highlighted. 0.5, chance, where there is no description or nothing to tell.
    """
    windows = fuzz(exemplars, seed)
    if description is None or not windows:
        return 0.5
    predicted = [bool(description.matches(w.tokens)[w.highlighted].mean() >= 0.5) for w in windows]
    accuracy = balanced_accuracy(predicted, [w.right for w in windows])
    return 0.5 if accuracy is None else accuracy

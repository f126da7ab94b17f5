"""How well a description predicts where a feature is active. Score on exemplars it was not written from."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selfexplain.features.describe import Description
from selfexplain.features.exemplars import Exemplar

ACTIVE = 0.1  # a window is active if it reaches this fraction of the feature's largest activation


def simulate(description: Description, tokens: Sequence[str]) -> NDArray[np.float64]:
    """Predicted activations, `(n_tokens,)`: 1 where the description matches, 0 elsewhere."""
    return description.matches(tokens).astype(np.float64)


def score(description: Description | None, exemplars: Sequence[Exemplar]) -> float:
    """Simulator score: Pearson correlation of simulated and true activations over all tokens of the exemplars together.

    0 where there is no description (it could not be parsed) or either side is constant.
    """
    if description is None or not exemplars:
        return 0.0
    predicted = np.concatenate([simulate(description, exemplar["tokens"]) for exemplar in exemplars])
    actual = np.concatenate([np.asarray(exemplar["activations"], np.float64) for exemplar in exemplars])
    if predicted.std() == 0 or actual.std() == 0:
        return 0.0
    return float(np.corrcoef(predicted, actual)[0, 1])


def detect(description: Description | None, exemplars: Sequence[Exemplar]) -> float:
    """Balanced accuracy of telling active windows from inactive ones by whether the description matches any token.

    0.5, chance, where there is no description or all windows are of one kind.
    """
    if description is None or not exemplars:
        return 0.5
    peaks = np.array([np.max(exemplar["activations"], initial=0.0) for exemplar in exemplars])
    active = peaks > ACTIVE * peaks.max()
    if active.all() or not active.any():
        return 0.5
    predicted = np.array([description.matches(exemplar["tokens"]).any() for exemplar in exemplars])
    return float((predicted[active].mean() + (~predicted[~active]).mean()) / 2)

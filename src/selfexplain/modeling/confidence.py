"""How sure an explainer is of a claim, and how likely claims of which it is so sure are right."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfexplain.tasks import outcome

_FOLDS = 5
_AS_IT_IS = np.zeros(2)  # log of the temperature, bias
_SHARPEST = 5.0  # |log temperature| at most: what separates a small split perfectly would ask for more and more


def claim_log_prob(pieces: Sequence[str], log_probs: Sequence[float]) -> float:
    """Log-probability of what an answer claims: of an outcome's verdict and output, of any other answer as a whole.

    The words of the two sentences around an outcome say nothing that its verdict does not, and how sure a model is of
    them only blurs how sure it is of the outcome.

    Args:
        pieces: the answer, cut as it was generated, one piece a token.
        log_probs: of those tokens, in nats.
    """
    spans = outcome.claim_spans("".join(pieces))
    if spans is None:
        return float(np.sum(log_probs))
    ends = np.cumsum([len(piece) for piece in pieces])
    begins = ends - [len(piece) for piece in pieces]
    claims = np.any([(begins < end) & (begin < ends) for begin, end in spans], axis=0)
    return float(np.sum(np.asarray(log_probs)[claims]))


def confidence(log_probs: ArrayLike, calibration: Mapping[str, float] | None) -> NDArray[np.float64]:
    """Probability that claims of these log-probabilities are right, of the same shape.

    It is `sigmoid(logit(p) / temperature + bias)`, temperature scaling of whether a claim is right (Guo et al. 2017,
    arXiv 1706.04599) with a bias: a description of ten words is never likely as a sequence, however right it is.

    Args:
        calibration: `{"temperature", "bias"}`; None gives the probability of the claim itself.
    """
    if calibration is None:
        return np.exp(log_probs)
    return _sigmoid(_logit(log_probs) / calibration["temperature"] + calibration["bias"])


def fit(log_probs: ArrayLike, correct: ArrayLike, groups: Sequence[str]) -> dict[str, float] | None:
    """The calibration under which claims of these log-probabilities `(n,)` were most likely `correct (n,)`.

    As in Platt scaling, the labels are drawn in a little from 0 and 1, so that a few rows give no certainty. Rows of
    few groups may mislead all the same: None unless calibrations fitted without a fold of the groups foretell its rows
    better than the probability of the claim does.
    """
    logits, right = _logit(log_probs), np.asarray(correct, bool)
    folds = np.unique(groups, return_inverse=True)[1] % _FOLDS
    if folds.max() == 0:
        return None
    foretold = [
        _loss(_fit(logits[folds != fold], right[folds != fold]), logits[folds == fold], right[folds == fold]).sum()
        for fold in range(folds.max() + 1)
    ]
    if sum(foretold) >= _loss(_AS_IT_IS, logits, right).sum():
        return None
    log_temperature, bias = _fit(logits, right)
    return {"temperature": float(np.exp(log_temperature)), "bias": float(bias)}


def _fit(logits: NDArray, right: NDArray) -> NDArray:
    from scipy.optimize import minimize

    labels = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))
    bounds = [(-_SHARPEST, _SHARPEST), (None, None)]
    return minimize(lambda found: _loss(found, logits, labels).mean(), _AS_IT_IS, bounds=bounds).x


def _loss(found: NDArray, logits: NDArray, labels: NDArray) -> NDArray[np.float64]:
    """Cross-entropy of each label under a calibration, `(log of the temperature, bias)`."""
    x = logits * np.exp(-found[0]) + found[1]
    return np.logaddexp(0, x) - labels * x


def store(
    directory: Path,
    calibration: Mapping[str, Mapping[str, float]],
    abstain_below: float,
    classes: Mapping[str, Sequence[str]],
) -> None:
    """Write into the config of a saved explainer, and nowhere else, what its confidence and descriptions mean."""
    path = directory / "config.json"
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    fields |= {"calibration": calibration, "abstain_below": abstain_below, "classes": classes or None}
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _sigmoid(x: NDArray) -> NDArray:
    return np.exp(-np.logaddexp(0, -x))


def _logit(log_probs: ArrayLike) -> NDArray:
    log_p = np.minimum(log_probs, -1e-6)  # no claim is certain
    return log_p - np.log(-np.expm1(log_p))

"""Confidence of a claim: the log-probability of its tokens, calibrated to the probability that it is correct."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfexplain.tasks import outcome
from selfexplain.utils.io import write_atomically

_N_FOLDS = 5
_UNCALIBRATED = np.zeros(2)  # log temperature, bias
_MAX_LOG_TEMPERATURE = 5.0  # bounds |log temperature|; on perfectly separable data the optimum is infinite


def claim_log_prob(pieces: Sequence[str], log_probs: Sequence[float]) -> float:
    """Return the log-probability in nats of what an answer claims.

    For an outcome only the tokens of the verdict and of the output count, because all other words follow from the
    verdict. For any other answer all tokens count.

    Args:
        pieces: text of each generated token.
        log_probs: log-probability of each of those tokens in nats.
    """
    spans = outcome.claim_spans("".join(pieces))
    if spans is None:
        return float(np.sum(log_probs))
    ends = np.cumsum([len(piece) for piece in pieces])
    begins = ends - [len(piece) for piece in pieces]
    claims = np.any([(begins < end) & (begin < ends) for begin, end in spans], axis=0)
    return float(np.sum(np.asarray(log_probs)[claims]))


def confidence(log_probs: ArrayLike, calibration: Mapping[str, float] | None) -> NDArray[np.float64]:
    """Return the probability that each claim is correct, `sigmoid(logit(p) / temperature + bias)`.

    This is temperature scaling (Guo et al. 2017, arXiv 1706.04599) of the binary outcome "the claim is correct". The
    bias is needed because a correct description of ten words still has a low probability as a sequence.

    Args:
        log_probs: log-probabilities of claims in nats, of any shape.
        calibration: `{"temperature", "bias"}`; None returns the probability of the claim.

    Returns:
        Probabilities of the same shape.
    """
    if calibration is None:
        return np.exp(log_probs)
    return _sigmoid(_logit(log_probs) / calibration["temperature"] + calibration["bias"])


def fit(log_probs: ArrayLike, correct: ArrayLike, groups: Sequence[str]) -> dict[str, float] | None:
    """Fit a calibration by maximum likelihood and keep it only if it improves on held-out groups.

    Labels are smoothed as in Platt scaling, so that a few rows do not lead to extreme confidence.

    Args:
        log_probs: log-probabilities of claims in nats, `(n,)`.
        correct: whether each claim is correct, `(n,)`.
        groups: group of each row, `(n,)`; groups are not divided between folds.

    Returns:
        `{"temperature", "bias"}`. None if there is only one group, or if the cross-validated cross-entropy (five folds
        of groups) is not lower than that of the uncalibrated probabilities.
    """
    logits, labels = _logit(log_probs), np.asarray(correct, bool)
    folds = np.unique(groups, return_inverse=True)[1] % _N_FOLDS
    if folds.max() == 0:
        return None
    held_out = [
        _loss(_fit(logits[folds != fold], labels[folds != fold]), logits[folds == fold], labels[folds == fold]).sum()
        for fold in range(folds.max() + 1)
    ]
    if sum(held_out) >= _loss(_UNCALIBRATED, logits, labels).sum():
        return None
    log_temperature, bias = _fit(logits, labels)
    return {"temperature": float(np.exp(log_temperature)), "bias": float(bias)}


def _fit(logits: NDArray, labels: NDArray) -> NDArray:
    """Log temperature and bias of the lowest cross-entropy against smoothed labels."""
    from scipy.optimize import minimize

    smoothed = np.where(labels, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((~labels).sum() + 2))
    bounds = [(-_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE), (None, None)]
    return minimize(lambda parameters: _loss(parameters, logits, smoothed).mean(), _UNCALIBRATED, bounds=bounds).x


def _loss(parameters: NDArray, logits: NDArray, labels: NDArray) -> NDArray[np.float64]:
    """Cross-entropy of each label under a calibration, given as log temperature and bias."""
    x = logits * np.exp(-parameters[0]) + parameters[1]
    return np.logaddexp(0, x) - labels * x


def store(
    directory: Path,
    calibration: Mapping[str, Mapping[str, float]],
    abstain_below: float,
    classes: Mapping[str, Sequence[str]],
) -> None:
    """Write a calibration into the `config.json` of a saved explainer.

    Args:
        directory: directory of the explainer.
        calibration: task -> `{"temperature", "bias"}`.
        abstain_below: confidence below which an explanation does not count as answered.
        classes: names of token classes that descriptions may use -> their tokens.
    """
    path = directory / "config.json"
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    fields |= {"calibration": calibration, "abstain_below": abstain_below, "classes": classes or None}
    write_atomically(path, json.dumps(fields, indent=2, sort_keys=True) + "\n")


def _sigmoid(x: NDArray) -> NDArray:
    return np.exp(-np.logaddexp(0, -x))


def _logit(log_probs: ArrayLike) -> NDArray:
    log_p = np.minimum(log_probs, -1e-6)  # keeps the logit of a probability of 1 finite
    return log_p - np.log(-np.expm1(log_p))

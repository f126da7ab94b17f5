"""Measure how well confidence predicts which answers are correct: calibration error and risk-coverage curve."""

import numpy as np
from numpy.typing import NDArray

from selfexplain.evaluation.results import Calibration

N_BINS = 10
CURVE_POINTS = 50


def calibration_error(confidence: NDArray, correct: NDArray, n_bins: int = N_BINS) -> float:
    """Expected calibration error: |mean confidence - share correct|, averaged over rows in bins of equal width.

    Naeini et al. 2015; see Guo et al. 2017 (arXiv 1706.04599).
    """
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(bins, confidence - correct, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(confidence))


def risks(confidence: NDArray, correct: NDArray) -> NDArray[np.float64]:
    """Share of incorrect answers among the 1, 2, ... n most confident ones, `(n,)`.

    Answers with equal confidence are counted with their mean error rate, because their order is arbitrary.
    """
    _, rank, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    incorrect = np.bincount(rank, 1 - correct) / size
    return np.cumsum(incorrect[np.sort(rank)]) / np.arange(1, len(rank) + 1)


def calibration_scores(
    confidence: NDArray, uncalibrated: NDArray, correct: NDArray, abstain_below: float, correct_when: str
) -> Calibration:
    """Compare confidence with the correctness of answers.

    Args:
        confidence: reported confidence in each answer, `(n,)`.
        uncalibrated: the explainer's probability of its own claim, `(n,)`.
        correct: whether each answer is correct, `(n,)` bool.
        abstain_below: confidence below which an answer does not count.
        correct_when: criterion for a correct answer, in words.
    """
    risk, n = risks(confidence, correct), len(correct)
    points = np.unique(np.linspace(1, n, min(n, CURVE_POINTS)).round().astype(int))
    n_answered = int((confidence >= abstain_below).sum())
    return Calibration(
        correct=correct_when,
        ece=calibration_error(confidence, correct),
        ece_uncalibrated=calibration_error(uncalibrated, correct),
        aurc=float(risk.mean()),
        risk=float(risk[-1]),
        n_bins=N_BINS,
        abstain_below=abstain_below,
        coverage=n_answered / n,
        risk_answered=float(risk[n_answered - 1]) if n_answered else None,
        curve=[(int(k) / n, float(risk[k - 1])) for k in points],
    )

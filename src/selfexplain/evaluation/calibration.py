"""Is confidence worth anything: does it say how often answers are right, and which ones are?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """Share wrong among the 1, 2, ... n most confident answers, `(n,)`; equally confident ones share their fate."""
    _, rank, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(rank, 1 - correct) / size
    return np.cumsum(wrong[np.sort(rank)]) / np.arange(1, len(rank) + 1)


def calibration_scores(
    confidence: NDArray, uncalibrated: NDArray, correct: NDArray, abstain_below: float
) -> Mapping[str, Any]:
    """What results.json says of the confidence in answers of which `correct (n,)` says whether they are right.

    Returns:
        `ece` and `ece_uncalibrated`, expected calibration errors; `aurc`, the mean risk over all coverages (an
        explainer that knows nothing of its errors has `risk`, the share of wrong answers); `coverage` and, where any is
        answered, `risk_answered` at `abstain_below`; `curve`, (coverage, risk) from the most confident answers to all.
    """
    risk, n = risks(confidence, correct), len(correct)
    points = np.unique(np.linspace(1, n, min(n, CURVE_POINTS)).round().astype(int))
    answered = int((confidence >= abstain_below).sum())
    return {
        "ece": calibration_error(confidence, correct),
        "ece_uncalibrated": calibration_error(uncalibrated, correct),
        "aurc": float(risk.mean()),
        "risk": float(risk[-1]),
        "n_bins": N_BINS,
        "abstain_below": abstain_below,
        "coverage": answered / n,
        **({"risk_answered": float(risk[answered - 1])} if answered else {}),
        "curve": [[int(k) / n, float(risk[k - 1])] for k in points],
    }

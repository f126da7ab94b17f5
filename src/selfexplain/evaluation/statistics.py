"""Confidence intervals and p-values over groups.

Rows of one group (a feature, a fact, a question) are not independent, so groups are resampled, never rows. All
functions take row statistics `(n_rows, k)` and the `value` of their metric, which maps sums `(..., k)` to scores
`(...)` (`metrics.py`).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

Value = Callable[[np.ndarray], np.ndarray]


def group_sums(statistics: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Row statistics `(n_rows, k)` summed within each group, `(n_groups, k)`."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((len(names), statistics.shape[1]))
    np.add.at(sums, index, statistics)
    return sums


def bootstrap_interval(
    statistics: np.ndarray, groups: Sequence[str], value: Value, n_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a score.

    Args:
        statistics: row statistics, `(n_rows, k)`.
        groups: group of each row.
        value: `Metric.value`.
        n_resamples: number of bootstrap resamples.
        seed: seed of the resamples; with the same seed and number of groups, all scores share their resamples.
    """
    sums = group_sums(statistics, groups)
    return _interval(value(_resample(len(sums), n_resamples, seed) @ sums))


def bootstrap_difference(
    first: np.ndarray, second: np.ndarray, groups: Sequence[str], value: Value, n_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the score of `first` minus that of `second`, on the same resamples."""
    weights = _resample(len(set(groups)), n_resamples, seed)
    return _interval(value(weights @ group_sums(first, groups)) - value(weights @ group_sums(second, groups)))


def permutation_test(
    first: np.ndarray, second: np.ndarray, groups: Sequence[str], value: Value, n_resamples: int = 2000, seed: int = 0
) -> float:
    """Two-sided p-value of the hypothesis that two systems score the same on the same rows.

    In each resample, the answers to each group are swapped between the systems with probability 1/2. Arguments as in
    `bootstrap_interval`.
    """
    a, b = group_sums(first, groups), group_sums(second, groups)  # (n_groups, k)
    swapped = np.random.default_rng(seed).integers(0, 2, (n_resamples, len(a))) @ (b - a)  # (n_resamples, k)
    differences = value(a.sum(axis=0) + swapped) - value(b.sum(axis=0) - swapped)
    observed = value(a.sum(axis=0)) - value(b.sum(axis=0))
    return float((1 + np.sum(np.abs(differences) >= np.abs(observed) - 1e-12)) / (1 + n_resamples))


@lru_cache(maxsize=1)  # all scores of a task share the resamples
def _resample(n_groups: int, n_resamples: int, seed: int) -> np.ndarray:
    """How often each group is drawn, `(n_resamples, n_groups)`."""
    return np.random.default_rng(seed).multinomial(n_groups, np.full(n_groups, 1 / n_groups), n_resamples)


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.025, 0.975])  # NaN: no row of the resample has a score
    return float(low), float(high)

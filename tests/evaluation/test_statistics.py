"""Intervals and p-values resample groups, not rows."""

import numpy as np
import pytest

from selfexplain.evaluation.metrics import confusion, macro_f1, ratio
from selfexplain.evaluation.statistics import bootstrap_difference, bootstrap_interval, group_sums, permutation_test


def means(values):
    return np.stack([np.asarray(values, dtype=float), np.ones(len(values))], axis=1)


@pytest.fixture
def correlated():
    """50 groups of 8 rows with the same score within a group."""
    scores = np.random.default_rng(0).integers(0, 2, 50)
    return means(np.repeat(scores, 8)), [f"g{index}" for index in np.repeat(np.arange(50), 8)]


def test_group_sums():
    sums = group_sums(means([1, 0, 1]), ["b", "a", "b"])
    np.testing.assert_array_equal(sums, [[0, 1], [2, 2]])


def test_interval_over_groups_is_wider_than_over_rows(correlated):
    statistics, groups = correlated
    low, high = bootstrap_interval(statistics, groups, ratio)
    row_low, row_high = bootstrap_interval(statistics, [str(index) for index in range(len(groups))], ratio)
    assert (high - low) / (row_high - row_low) == pytest.approx(np.sqrt(8), rel=0.15)
    assert low < ratio(statistics.sum(axis=0)) < high


def test_interval_has_the_normal_width():
    scores = np.random.default_rng(1).normal(0.5, 0.1, 400)
    low, high = bootstrap_interval(means(scores), [str(index) for index in range(400)], ratio)
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / 20, rel=0.1)


def test_the_interval_of_macro_f1_contains_the_score():
    rng = np.random.default_rng(2)
    actual = rng.random(300) < 0.5
    predicted = actual ^ (rng.random(300) < 0.2)
    statistics = confusion(predicted, actual)
    low, high = bootstrap_interval(statistics, [str(index // 2) for index in range(300)], macro_f1)
    assert low < macro_f1(statistics.sum(axis=0)) < high < 1


def test_the_interval_of_a_paired_difference_is_narrower_than_that_of_a_score(correlated):
    first, groups = correlated
    second = first.copy()
    second[::8, 0] = 0
    low, high = bootstrap_difference(first, second, groups, ratio)
    first_low, first_high = bootstrap_interval(first, groups, ratio)
    assert 0 < low < high
    assert high - low < first_high - first_low


def test_permutation_p_values():
    rng = np.random.default_rng(3)
    groups = [str(index // 4) for index in range(400)]
    better, other, same = (means(rng.random(400) < p) for p in (0.8, 0.5, 0.5))
    assert permutation_test(better, other, groups, ratio) == 1 / 2001
    assert permutation_test(other, same, groups, ratio) > 0.05
    assert permutation_test(other, other, groups, ratio) == 1


def test_the_interval_is_determined_by_the_seed(correlated):
    assert bootstrap_interval(*correlated, ratio, seed=5) == bootstrap_interval(*correlated, ratio, seed=5)

"""Intervals and p-values resample groups, not rows."""

from fractions import Fraction

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


FIRST = {"a": [0.97, 0.51], "b": [0.73], "c": [0.02, 0.26, 0.9], "d": [0.44], "e": [0.81], "f": [0.13, 0.66]}
SECOND = {"a": [0.21, 0.04], "b": [0.99], "c": [0.57, 0.0, 0.35], "d": [0.08], "e": [0.7], "f": [0.42, 0.15]}
GROUPS = [name for name, scores in FIRST.items() for _ in scores]


def resampled_means(scores, draws):
    """The mean score of each resample, computed row by row."""
    groups = list(scores.values())
    return np.array([np.mean([x for group, n in zip(groups, draw, strict=True) for x in group * n]) for draw in draws])


def test_intervals_are_percentiles_over_resampled_groups():
    first, second = (means(np.concatenate(list(scores.values()))) for scores in (FIRST, SECOND))
    intervals = []
    for seed in (5, 6):
        draws = np.random.default_rng(seed).multinomial(6, [1 / 6] * 6, 100)
        interval = bootstrap_interval(first, GROUPS, ratio, 100, seed)
        difference = bootstrap_difference(first, second, GROUPS, ratio, 100, seed)
        expected = resampled_means(FIRST, draws)
        assert interval == pytest.approx(np.percentile(expected, [2.5, 97.5]))
        assert difference == pytest.approx(np.percentile(expected - resampled_means(SECOND, draws), [2.5, 97.5]))
        intervals.append(interval)
    assert intervals[0] != intervals[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_p_value_counts_differences_at_least_as_large_as_the_observed_one(seed):
    """Equal differences count, although their sums are rounded differently."""
    first = {"a": [4], "b": [5], "c": [3, 4], "d": [9], "e": [0]}  # in tenths
    second = {"a": [1], "b": [8], "c": [5, 4], "d": [2], "e": [3]}
    changes = [Fraction(sum(first[name]) - sum(second[name]), 10) for name in first]  # in exact arithmetic
    swaps = np.random.default_rng(seed).integers(0, 2, (500, 5))
    extreme = sum(
        abs(sum(-x if swapped else x for x, swapped in zip(changes, swap, strict=True))) >= abs(sum(changes))
        for swap in swaps
    )
    groups = [name for name, scores in first.items() for _ in scores]
    rows = [means(np.concatenate(list(scores.values())) / 10) for scores in (first, second)]
    assert permutation_test(*rows, groups, ratio, 500, seed) == pytest.approx((1 + extreme) / 501)


def test_systems_are_compared_by_the_sums_of_all_their_rows():
    """With macro F1, whose value is not linear in the sums."""
    actual = [True, True, True, False, True, True]
    first = confusion([True, True, False, False, True, None], actual)
    second = confusion([False, True, True, True, None, True], actual)
    groups = ["a", "a", "b", "c", "c", "d"]
    a, b = first.reshape(6, 2, 3), second.reshape(6, 2, 3)

    def f1(rows):
        both, predicted, actual = rows.sum(axis=0).T
        return np.mean(2 * both / (predicted + actual))

    swaps = np.random.default_rng(2).integers(0, 2, (400, 4))[:, [0, 0, 1, 2, 2, 3], None, None] == 1
    differences = [f1(np.where(swap, b, a)) - f1(np.where(swap, a, b)) for swap in swaps]
    extreme = sum(abs(difference) >= abs(f1(a) - f1(b)) - 1e-9 for difference in differences)
    assert 0 < extreme < 400
    assert permutation_test(first, second, groups, macro_f1, 400, 2) == pytest.approx((1 + extreme) / 401)


def test_the_observed_difference_of_a_total_is_that_of_the_sums_over_groups():
    """Totals 3 and 1 differ by 2. Swapping the two unequal groups gives 2, 0, 0 or -2, so half are as large."""
    first, second = np.array([[1.0], [1.0], [1.0]]), np.array([[0.0], [1.0], [0.0]])
    for pair in ((first, second), (second, first)):
        p_value = permutation_test(*pair, ["a", "b", "c"], lambda sums: sums[..., 0], n_resamples=2000)
        assert p_value == pytest.approx(0.5, abs=0.05)


def test_intervals_and_p_values_use_2000_resamples_and_seed_0():
    statistics, groups = means(np.random.default_rng(2).random(30)), [str(index) for index in range(30)]
    other = means(np.random.default_rng(3).random(30))
    fixed = {"n_resamples": 2000, "seed": 0}
    assert bootstrap_interval(statistics, groups, ratio) == bootstrap_interval(statistics, groups, ratio, **fixed)
    for compare in (bootstrap_difference, permutation_test):
        assert compare(statistics, other, groups, ratio) == compare(statistics, other, groups, ratio, **fixed)
        assert compare(statistics, other, groups, ratio, seed=1) != compare(statistics, other, groups, ratio, **fixed)

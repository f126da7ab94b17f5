"""Balanced sampling: every stratum has as many changed as unchanged rows, and no stratum dominates."""

import random
from collections import Counter

from selfexplain.groundtruth.balance import MAX_SHARE, balanced


def rows(sizes):
    """Rows (stratum, label) from stratum -> (number of unchanged rows, number of changed rows)."""
    return [(key, label) for key, pair in sizes.items() for label, n in enumerate(pair) for _ in range(n)]


def draw(sizes, n):
    return balanced(rows(sizes), lambda row: row[0], lambda row: bool(row[1]), n, random.Random(0))


def test_half_of_the_rows_of_every_stratum_are_changed():
    drawn = draw({"a": (100, 30), "b": (10, 90), "c": (50, 50), "d": (40, 3), "e": (60, 20)}, 100)
    by_stratum = Counter(drawn)
    assert {key for key, _ in drawn} == set("abcde")
    for key in "abcde":
        assert by_stratum[key, 0] == by_stratum[key, 1] > 0


def test_no_stratum_dominates():
    drawn = draw({"a": (500, 500), **{key: (30, 30) for key in "bcdef"}}, 400)
    assert max(Counter(key for key, _ in drawn).values()) <= MAX_SHARE * len(drawn) + 2


def test_a_stratum_with_a_single_label_is_excluded():
    assert {key for key, _ in draw({"a": (50, 50), "b": (50, 0)}, 40)} == {"a"}


def test_rows_that_cannot_be_balanced_give_an_empty_sample():
    assert draw({"a": (50, 0)}, 40) == []

"""Balanced sampling, and the scores of rules that see no vector."""

import random
from collections import Counter

import pytest

from selfexplain.groundtruth.balance import MAX_SHARE, balanced, draw_balanced, measure
from selfexplain.groundtruth.splits import SPLITS, split_of
from selfexplain.tasks.lookup import lookup_rule


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


def test_no_stratum_exceeds_its_maximum_share():
    drawn = draw({"a": (500, 500), **{key: (30, 30) for key in "bcdef"}}, 400)
    assert max(Counter(key for key, _ in drawn).values()) <= MAX_SHARE * len(drawn) + 2


def test_a_stratum_with_a_single_label_is_excluded():
    assert {key for key, _ in draw({"a": (50, 50), "b": (50, 0)}, 40)} == {"a"}


def test_rows_that_cannot_be_balanced_give_an_empty_sample():
    assert draw({"a": (50, 0)}, 40) == []


def test_texts_are_balanced_as_far_as_their_rows_allow():
    rows = [("x", True)] * 5 + [("x", False)] * 20 + [("y", True)] * 5 + [("y", False)] * 20
    drawn = balanced(rows, lambda row: None, lambda row: row[1], 20, random.Random(0), lambda row: row[0])
    assert Counter(drawn) == {(text, label): 5 for text in "xy" for label in (True, False)}


def test_rows_are_drawn_per_split_in_proportion_to_its_size():
    rows = [{"group": f"group {n}", "changed": n % 3 == 0, "kind": n % 2} for n in range(1200)]
    indices = draw_balanced(rows, 300, 7, stratum=lambda row: row["kind"])
    assert len(indices) == len(set(indices))
    for split in SPLITS:
        size = sum(split_of(row["group"], 7) == split for row in rows)
        drawn = [rows[i] for i in indices if split_of(rows[i]["group"], 7) == split]
        assert len(drawn) == pytest.approx(300 * size / 1200, abs=2)
        for kind in (0, 1):
            labels = Counter(row["changed"] for row in drawn if row["kind"] == kind)
            assert labels[True] == labels[False] > 0


def test_a_small_split_gets_the_minimum():
    rows = [{"group": f"group {n}", "changed": n % 2 == 0} for n in range(400)]
    assert draw_balanced(rows, 1, 0) == []
    assert len(draw_balanced(rows, 1, 0, minimum=2)) == 2 * len(SPLITS)


def cell(row):
    return row["cell"]


TRAIN = [
    {"cell": "a", "changed": True, "text": "s"},
    {"cell": "a", "changed": True, "text": "s"},
    {"cell": "b", "changed": False, "text": "t"},
    {"cell": "b", "changed": False, "text": "t"},
]
TEST = [
    {"cell": "a", "changed": True, "text": "s"},
    {"cell": "a", "changed": False, "text": "s"},
    {"cell": "b", "changed": False, "text": "t"},
    {"cell": "b", "changed": False, "text": "u"},
]


def test_the_lookup_rule_is_scored_on_the_test_rows():
    measured = measure(TRAIN, TEST, cell)
    assert measured.lookup_rule_accuracy == 3 / 4
    # changed: precision 1/2, recall 1, F1 2/3; unchanged: precision 1, recall 2/3, F1 4/5
    assert measured.lookup_rule_macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert measured.text_majority is None


def test_the_majority_label_per_text_is_counted_over_both_splits():
    # s: 3 of 4 changed; t: 3 of 3 unchanged; u: 1 of 1 unchanged
    assert measure(TRAIN, TEST, cell, "text").text_majority == 7 / 8


def test_balance_uses_the_same_lookup_rule_as_evaluation():
    cells = [{"cell": n, "changed": changed} for n in range(30) for changed in (True, False)]
    predictions = lookup_rule(cell, cells, cells)
    measured = measure(cells, cells, cell)
    assert len(set(predictions)) == 2
    assert measured.lookup_rule_accuracy == 0.5
    assert measured.lookup_rule_macro_f1 > 0.45  # a constant prediction would score 1/3

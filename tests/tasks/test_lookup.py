"""The lookup rule learns majority labels per cell and does not read the labels that it predicts."""

from selfexplain.tasks.lookup import lookup_rule, majority_label


def cell(row):
    return row["cell"]


def rows(*pairs):
    return [{"cell": name, "changed": changed} for name, changed in pairs]


TRAIN = rows(("a", True), ("a", True), ("a", False), ("b", False), ("b", False), ("c", True))


def test_each_cell_gets_its_majority_label():
    test = [{"cell": "a"}, {"cell": "b"}, {"cell": "c"}]  # without labels, so the rule cannot read them
    assert lookup_rule(cell, TRAIN, test) == [True, False, True]


def test_an_unknown_cell_gets_the_majority_label_of_all_rows():
    assert lookup_rule(cell, rows(("a", True), ("b", False), ("b", False)), [{"cell": "c"}]) == [False]
    assert lookup_rule(cell, rows(("a", True), ("b", False)), [{"cell": "c"}]) == [True]


def test_balanced_cells_get_random_labels_that_do_not_depend_on_row_order():
    pairs = [(f"cell {n}", changed) for n in range(40) for changed in (True, False)]
    test = [{"cell": f"cell {n}"} for n in range(40)]
    labels = lookup_rule(cell, rows(*pairs), test)
    assert 10 <= sum(labels) <= 30
    assert lookup_rule(cell, rows(*reversed(pairs)), test) == labels


def test_a_majority_is_not_a_tie_for_any_number_of_rows():
    pairs = [(f"cell {n}", changed) for n in range(10) for changed in [n % 2 == 0] * 2]
    test = [{"cell": f"cell {n}"} for n in range(10)]
    assert lookup_rule(cell, rows(*pairs), test) == [True, False] * 5


def test_the_random_label_of_a_balanced_cell_never_changes():
    """Scores of the lookup rule in published results depend on these labels."""
    cells = [("entity", 0), ("entity", 1), ("relation", 0), ("other", 3), ("", 1)]
    train = rows(*((name, changed) for name in cells for changed in (True, True, False, False)))
    test = [{"cell": name} for name in cells]
    assert lookup_rule(cell, train, test) == [True, False, True, True, False]


def test_a_tie_of_all_rows_counts_as_changed():
    assert majority_label([True, False]) is True
    assert majority_label([True, False, False]) is False

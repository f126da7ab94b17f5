"""Gradient boosting on a few numbers per row."""

import numpy as np
import pytest

from selfexplain.evaluation.readers.boosting import SETTINGS, fit_boosting


@pytest.fixture
def table():
    """A table in which two columns together decide the label, and neither of them does alone."""
    rng = np.random.default_rng(0)
    kinds, numbers = rng.choice(["a", "b", "c"], 600), rng.normal(size=600)
    labels = [(kind == "a") == (number > 0) for kind, number in zip(kinds, numbers, strict=True)]
    return {"kind": kinds.tolist(), "number": numbers.tolist()}, labels


def part(table, start, end):
    return {name: values[start:end] for name, values in table.items()}


def test_text_columns_are_categories_and_missing_numbers_are_allowed(table):
    columns, labels = table
    columns = {**columns, "number": [np.nan if n % 7 == 0 else value for n, value in enumerate(columns["number"])]}
    boosting = fit_boosting(part(columns, 0, 400), labels[:400], part(columns, 400, 500), labels[400:500], 0)
    test = part(columns, 500, 600)
    known = [not np.isnan(value) for value in test["number"]]
    correct = np.equal(boosting.predict(test), labels[500:])
    assert correct[known].mean() > 0.95 and boosting.settings in SETTINGS
    assert len(boosting.predict({"kind": ["unseen"], "number": [1.0]})) == 1


def test_settings_are_chosen_on_the_validation_rows(table, monkeypatch):
    columns, labels = table
    settings = [{"max_iter": 1, "max_leaf_nodes": 2, "learning_rate": 0.001}, SETTINGS[0]]
    monkeypatch.setattr("selfexplain.evaluation.readers.boosting.SETTINGS", settings)
    train, validation = (part(columns, 0, 400), labels[:400]), (part(columns, 400, 600), labels[400:])
    assert fit_boosting(*train, *validation, 0).settings == SETTINGS[0]
    assert fit_boosting(*train, part(columns, 0, 0), [], 0).settings == settings[0]


def test_one_class_is_predicted_without_a_classifier():
    boosting = fit_boosting({"number": [1.0, 2.0]}, [True, True], {"number": []}, [], 0)
    assert boosting.predict({"number": [5.0, 6.0, 7.0]}) == [True] * 3

"""Gradient boosting on a few numbers per row: does the output change?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selfexplain.tasks.lookup import majority_label

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

SETTINGS = (
    {"max_iter": 100, "max_leaf_nodes": 8, "learning_rate": 0.1},
    {"max_iter": 100, "max_leaf_nodes": 31, "learning_rate": 0.1},
    {"max_iter": 300, "max_leaf_nodes": 16, "learning_rate": 0.05},
)
"""Candidate settings of the classifier."""

Table = dict[str, list[Any]]
"""Name of a column -> one value per row; text columns are categories, NaN is a missing number."""

MAX_CATEGORIES = 250
"""The classifier reads at most 255 categories. Rarer ones share the missing value."""


@dataclass(frozen=True)
class Boosting:
    """A fitted classifier.

    Attributes:
        constant: the prediction if there is no classifier, because the labels or all columns are constant.
        settings: the settings that were chosen on the validation rows.
        columns: names of the columns that the classifier reads.
        categories: text column -> number of each category.
    """

    classifier: "HistGradientBoostingClassifier | None"
    constant: bool
    settings: dict[str, Any]
    columns: list[str]
    categories: dict[str, dict[str, int]]

    def predict(self, table: Table) -> list[bool]:
        """Whether the output changes, for each row of a table with the columns that it was fitted on."""
        if self.classifier is None:
            return [self.constant] * len(next(iter(table.values())))
        return self.classifier.predict(_numbers(table, self.columns, self.categories)).astype(bool).tolist()


def fit_boosting(
    train: Table, labels: Sequence[bool], validation: Table, validation_labels: Sequence[bool], seed: int
) -> Boosting:
    """Fit a classifier with each of `SETTINGS`, and keep the one with the highest macro-F1 on the validation rows.

    Columns without two different values are left out; without any other column, the prediction is the majority label.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import f1_score

    categories = {name: _categories(values) for name, values in train.items() if isinstance(values[0], str)}
    every = _numbers(train, list(train), categories)
    columns = [name for name, values in zip(train, every.T, strict=True) if len(set(values[~np.isnan(values)])) > 1]
    if len(set(labels)) < 2 or not columns:
        return Boosting(None, majority_label(list(labels)), {}, columns, categories)
    x, mask = _numbers(train, columns, categories), [name in categories for name in columns]
    fitted = []
    for settings in SETTINGS if len(validation_labels) else SETTINGS[:1]:
        classifier = HistGradientBoostingClassifier(**settings, categorical_features=mask, random_state=seed)
        boosting = Boosting(classifier.fit(x, labels), labels[0], settings, columns, categories)
        score = (
            f1_score(validation_labels, boosting.predict(validation), average="macro", zero_division=0)
            if len(validation_labels)
            else 0.0
        )
        fitted.append((score, boosting))
    return max(fitted, key=lambda pair: pair[0])[1]


def _categories(values: Sequence[str]) -> dict[str, int]:
    """The most frequent categories, numbered."""
    names, counts = np.unique(np.asarray(values, dtype=object).astype(str), return_counts=True)
    kept = names[np.argsort(-counts, kind="stable")][:MAX_CATEGORIES]
    return {name: number for number, name in enumerate(kept.tolist())}


def _numbers(table: Table, columns: Sequence[str], categories: dict[str, dict[str, int]]) -> NDArray[np.float64]:
    """Columns of the table as numbers, `(n_rows, n_columns)`; NaN for unknown categories."""
    values = [
        [categories[name].get(value, np.nan) for value in table[name]] if name in categories else table[name]
        for name in columns
    ]
    return np.array(values, dtype=float).T

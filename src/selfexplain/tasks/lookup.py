"""The lookup rule: predict whether the output changes without reading the vector."""

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def lookup_rule(cell: Callable[[Row], Hashable], train: Sequence[Row], test: Sequence[Row]) -> list[bool]:
    """Predict `changed` for each test row from the training rows in the same cell.

    The prediction is the majority label of the cell. Cells that contain no training row get the majority label of all
    training rows, which is `True` in case of a tie. A cell with as many changed as unchanged rows, as in balanced
    ground truth, gets a random label that depends only on the cell. Without the random choice every tied cell would get
    the same label, which scores worse than guessing.

    Args:
        cell: function that returns the properties of a row that the rule uses (`Task.cell`).
        train: rows with `changed` and the columns that `cell` reads.
        test: rows with the columns that `cell` reads.

    Returns:
        One prediction per test row.
    """
    labels: dict[Hashable, list[bool]] = defaultdict(list)
    for row in train:
        labels[cell(row)].append(row["changed"])
    rule = {key: _label(key, changed) for key, changed in labels.items()}
    default = majority_label([row["changed"] for row in train])
    return [rule.get(cell(row), default) for row in test]


def majority_label(changed: Sequence[bool]) -> bool:
    """The more frequent label; `True` in case of a tie."""
    return 2 * sum(changed) >= len(changed)


def _label(cell: Hashable, changed: Sequence[bool]) -> bool:
    if 2 * sum(changed) == len(changed):
        return random.Random(repr(cell)).random() < 0.5
    return majority_label(changed)

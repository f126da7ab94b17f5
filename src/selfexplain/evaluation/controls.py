"""Build control rows, which lack their own vectors. A score on them cannot come from reading the vector.

Every control returns new rows, and applies only to rows with `activations`.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfexplain.errors import SelfExplainError
from selfexplain.tasks.question import PLACEHOLDER

Row = Mapping[str, Any]


def shuffled_vector(rows: Sequence[Row], seed: int) -> list[dict]:
    """Each row with the vectors of a row from another group.

    Rows of the same layers exchange their vectors (a permutation). If one group has more than half of these rows, that
    is impossible, and each of these rows gets the vectors of a random row from another group with as many vectors.

    Raises:
        SelfExplainError: no row of another group has as many vectors.
    """
    rng = np.random.default_rng(seed)
    same_layers = defaultdict(list)
    for index, row in enumerate(rows):
        same_layers[tuple(row["activation_layers"])].append(index)
    donors = np.empty(len(rows), dtype=int)
    for members in same_layers.values():
        exchange = _derangement([rows[index]["group"] for index in members], rng)
        if exchange is None:
            donors[members] = [_other_group(rows, index, rng) for index in members]
        else:
            donors[members] = np.array(members)[exchange]
    return [{**row, "activations": rows[donor]["activations"]} for row, donor in zip(rows, donors, strict=True)]


def zero_vector(rows: Sequence[Row]) -> list[dict]:
    """Each row with zeros instead of its vectors."""
    return [{**row, "activations": np.zeros_like(np.asarray(row["activations"]))} for row in rows]


def text_only(rows: Sequence[Row]) -> list[dict]:
    """Each row without its vectors and their placeholders in the prompt."""
    stripped = []
    for row in rows:
        prompt = row["prompt"]
        for offset in sorted(row["placeholder_offsets"], reverse=True):
            prompt = prompt[:offset] + prompt[offset + len(PLACEHOLDER) :]
        stripped.append(
            {**row, "prompt": prompt, "placeholder_offsets": [], "activations": [], "activation_layers": []}
        )
    return stripped


def _derangement(groups: Sequence[str], rng: np.random.Generator) -> np.ndarray | None:
    """A random permutation that maps every index to an index of another group; None if there is none.

    In an order in which each group is contiguous, a rotation by the size of the largest group maps no index to its own
    group.
    """
    sizes = Counter(groups)
    largest = max(sizes.values())
    if 2 * largest > len(groups):
        return None
    rank = dict(zip(sizes, rng.permutation(len(sizes)), strict=True))
    order = np.lexsort((rng.random(len(groups)), [rank[group] for group in groups]))
    permutation = np.empty(len(groups), dtype=int)
    permutation[order] = np.roll(order, largest)
    return permutation


def _other_group(rows: Sequence[Row], index: int, rng: np.random.Generator) -> int:
    group, n_vectors = rows[index]["group"], len(rows[index]["activations"])
    others = [i for i, row in enumerate(rows) if row["group"] != group and len(row["activations"]) == n_vectors]
    if not others:
        raise SelfExplainError(
            f"Vectors cannot be shuffled, because all rows with {n_vectors} vectors belong to group {group!r}. "
            "Evaluate on rows of at least two groups."
        )
    return int(rng.choice(others))

"""Predictors that explain nothing: an explainer has to beat them.

The lookup rule and the majority class predict whether the output changes and nothing else: what it is they cannot know
without the ground truth. The nearest neighbour answers in full.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfexplain.tasks import activation_patching, input_ablation

Row = Mapping[str, Any]


def lookup_rule(task: str, train: Sequence[Row], test: Sequence[Row]) -> list[bool]:
    """The majority label of the training rows in the same cell; of all training rows where the cell is empty.

    A cell is (token type, block of layers) in activation patching, (topic, hint style) in input ablation. A cell with
    as many changed as unchanged rows, as balanced ground truth has, gets either label by a coin of its own: one label
    for all of them would be worse than guessing.
    """
    cell = activation_patching.cell if task == "activation_patching" else input_ablation.cell
    labels = defaultdict(list)
    for row in train:
        labels[cell(row)].append(row["changed"])
    rule = {
        key: random.Random(repr(key)).random() < 0.5 if 2 * sum(changed) == len(changed) else _majority(changed)
        for key, changed in labels.items()
    }
    default = _majority([row["changed"] for row in train])
    return [rule.get(cell(row), default) for row in test]


def majority(train: Sequence[Row], test: Sequence[Row]) -> list[bool]:
    """The majority label of the training rows, for every row."""
    return [_majority([row["changed"] for row in train])] * len(test)


def nearest_neighbour(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """The completion of the most similar training row.

    Similarity is the inner product of unit-normalised vectors, over all layers (a row's vectors are summed first);
    where rows have no vectors, the TF-IDF cosine of the prompts.
    """
    with_vectors = len(train[0]["activations"]) > 0
    nearest = _nearest_by_vector(train, test) if with_vectors else _nearest_by_text(train, test)
    return [train[index]["completion"] for index in nearest]


def _majority(changed: Sequence[bool]) -> bool:
    return 2 * sum(changed) >= len(changed)


def _unit_vectors(rows: Sequence[Row]) -> np.ndarray:
    """One unit vector a row, `(n_rows, d)` (zero stays zero)."""
    vectors = np.stack([np.asarray(row["activations"], dtype=np.float32).sum(axis=0) for row in rows])
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _nearest_by_vector(train: Sequence[Row], test: Sequence[Row], chunk: int = 1024) -> np.ndarray:
    candidates = _unit_vectors(train).T  # (d, n_train)
    queries = _unit_vectors(test)
    starts = range(0, len(queries), chunk)
    return np.concatenate([(queries[start : start + chunk] @ candidates).argmax(axis=1) for start in starts])


def _nearest_by_text(train: Sequence[Row], test: Sequence[Row]) -> list[int]:
    counts = [_word_counts(row) for row in train]
    document_frequency = Counter(word for words in counts for word in words)
    idf = {word: np.log(len(train) / n) + 1 for word, n in document_frequency.items()}
    norms = np.array([np.sqrt(sum((n * idf[word]) ** 2 for word, n in words.items())) for words in counts])
    postings = defaultdict(list)
    for index, words in enumerate(counts):
        for word, n in words.items():
            postings[word].append((index, n * idf[word] / norms[index]))
    columns = {word: np.array(entries).T for word, entries in postings.items()}  # (2, n_documents): index, weight
    nearest = []
    for row in test:
        similarity = np.zeros(len(train))
        for word, n in _word_counts(row).items():
            if word in columns:
                indices, weights = columns[word]
                similarity[indices.astype(int)] += n * idf[word] * weights
        nearest.append(int(similarity.argmax()))
    return nearest


def _word_counts(row: Row) -> Counter[str]:
    return Counter(re.findall(r"\w+", row["prompt"].lower()))

"""Baselines: systems that answer without an explainer. A useful explainer scores higher than all of them.

The lookup rule (`tasks.lookup`) and the majority class predict only whether the output changes. The nearest neighbour
answers in full.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfexplain.tasks.lookup import majority_label

Row = Mapping[str, Any]


def majority(train: Sequence[Row], test: Sequence[Row]) -> list[bool]:
    """The majority label of the training rows, once per test row."""
    return [majority_label([row["changed"] for row in train])] * len(test)


def nearest_neighbour(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """The completion of the most similar training row, for each test row.

    Rows with vectors are compared by the inner product of unit-normalised vectors, across all layers (the vectors of
    one row are summed first). Rows without vectors are compared by the TF-IDF cosine of their prompts.
    """
    has_vectors = len(train[0]["activations"]) > 0
    nearest = _nearest_by_vector(train, test) if has_vectors else _nearest_by_text(train, test)
    return [train[index]["completion"] for index in nearest]


def _unit_vectors(rows: Sequence[Row]) -> np.ndarray:
    """One unit vector per row, `(n_rows, d)`; a zero vector stays zero."""
    vectors = np.stack([np.asarray(row["activations"], dtype=np.float32).sum(axis=0) for row in rows])
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _nearest_by_vector(train: Sequence[Row], test: Sequence[Row], chunk: int = 1024) -> np.ndarray:
    candidates = _unit_vectors(train).T  # (d, n_train)
    queries = _unit_vectors(test)
    starts = range(0, len(queries), chunk)
    return np.concatenate([(queries[start : start + chunk] @ candidates).argmax(axis=1) for start in starts])


def _nearest_by_text(train: Sequence[Row], test: Sequence[Row], chunk: int = 1024) -> np.ndarray:
    """Index of the nearest training prompt by TF-IDF cosine, `(n_test,)`.

    Tokens are lower-cased runs of word characters, `idf = log(n_train / document frequency) + 1`. If several prompts
    are equally similar, the first one is chosen. Similarities are rounded, so float errors do not decide between them.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(token_pattern=r"\w+", smooth_idf=False)
    candidates = vectorizer.fit_transform([row["prompt"] for row in train]).T  # (n_words, n_train), sparse
    queries = vectorizer.transform([row["prompt"] for row in test])
    starts = range(0, len(test), chunk)
    similarities = ((queries[start : start + chunk] @ candidates).toarray() for start in starts)
    return np.concatenate([similarity.round(9).argmax(axis=1) for similarity in similarities])

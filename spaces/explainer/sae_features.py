"""SAE features that the explainer was not trained on, read from the rows of a feature description dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_FEATURES = 400
MAX_TEXTS = 160

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Feature:
    """A direction of the residual stream from the test split.

    Attributes:
        layer: Decoder block after which the feature is read.
        index: Index of the feature in its SAE.
        vector: `(d,)`, the direction.
        description: Ground-truth description.
        simulator_score: Correlation between the activations predicted from that description and the real ones.
        exemplars: Texts that activate the feature, as `{"tokens", "activations"}`.
    """

    layer: int
    index: int
    vector: tuple[float, ...]
    description: str
    simulator_score: float
    exemplars: tuple[dict[str, Any], ...]


def read_features(rows: Sequence[Row]) -> list[Feature]:
    """Return the first `MAX_FEATURES` features of some rows, highest simulator score first."""
    features = [_feature(row) for row in first_row_per_feature(rows)[:MAX_FEATURES]]
    return sorted(features, key=lambda feature: -feature.simulator_score)


def first_row_per_feature(rows: Sequence[Row]) -> list[Row]:
    """Return the first row of each feature. Datasets have one row per feature and wording of the question."""
    first: dict[tuple[int, str, int], Row] = {}
    for row in rows:
        first.setdefault((row["layer"], row["sae_id"], row["feature_index"]), row)
    return list(first.values())


def exemplar_texts(features: Sequence[Feature]) -> list[str]:
    """Return at most `MAX_TEXTS` distinct exemplar texts, spread evenly over the features."""
    exemplars = [exemplar for feature in features for exemplar in feature.exemplars]
    texts = list(dict.fromkeys("".join(exemplar["tokens"]).strip() for exemplar in exemplars))
    return texts[:: max(1, len(texts) // MAX_TEXTS)][:MAX_TEXTS]


def restore_spaces(tokens: Sequence[str]) -> list[str]:
    """Return tokens with leading spaces. SentencePiece drops them when it decodes tokens one by one."""
    if any(token[:1].isspace() for token in tokens):
        return list(tokens)
    return [*tokens[:1], *(f" {token}" for token in tokens[1:])]


def _feature(row: Row) -> Feature:
    return Feature(
        layer=row["layer"],
        index=row["feature_index"],
        vector=tuple(map(float, row["activations"][0])),
        description=row["description"],
        simulator_score=row["simulator_score"],
        exemplars=tuple(exemplar | {"tokens": restore_spaces(exemplar["tokens"])} for exemplar in row["exemplars"]),
    )

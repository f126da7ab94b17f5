"""Build the out-of-distribution test sets of feature description: activations, and differences between activations.

Rows are found, described and scored like those of features, so an explainer of features can be tested on vectors unlike
its training vectors. The two sets follow Li et al., "Training Language Models to Explain Their Own Computations" (arXiv
2511.08579), who call them ACT and dACT. As in that paper, no vector is left out because it is hard to describe, and
the score is how well a description predicts the projections on the vector.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.features.dictionary import Dictionary, dictionary_from_directions
from selfexplain.features.exemplars import ExemplarState
from selfexplain.features.residuals import residual_batches
from selfexplain.features.saes import sample_activations
from selfexplain.groundtruth.builders.descriptions import describe_features
from selfexplain.groundtruth.builders.feature_rows import rows_of
from selfexplain.groundtruth.config import FeatureConfig
from selfexplain.groundtruth.sources import Pair
from selfexplain.target.capture import capture
from selfexplain.target.load import Target

logger = logging.getLogger(__name__)

CENTER_TOKENS = 20_000  # tokens over which the mean residual is computed
COUNTED = ("dead", "skipped", "poorly_described", "mean_simulator_score")


@dataclass(frozen=True)
class Vectors:
    """Vectors of the residual stream to ask about.

    Attributes:
        source: what the vectors are, for the rows.
        layers: layers at which they were read.
        groups: group of each of the n vectors, the same at every layer.
        vectors: `(n_layers, n, d)` float32, on the CPU.
        centers: mean residual of each layer, `(n_layers, d)`.
    """

    source: str
    layers: list[int]
    groups: list[str]
    vectors: Tensor
    centers: Tensor

    def dictionaries(self, target: Target) -> list[Dictionary]:
        """The directions of the vectors, as one dictionary per layer."""
        return [
            dictionary_from_directions(vectors, layer, self.source, f"layer_{layer}", center.to(target.model.device))
            for layer, vectors, center in zip(self.layers, self.vectors, self.centers, strict=True)
        ]

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        from safetensors.torch import save_file

        fields = {"source": self.source, "layers": self.layers, "groups": self.groups}
        tensors = {"vectors": self.vectors.contiguous(), "centers": self.centers.contiguous()}
        save_file(tensors, path, metadata={"fields": json.dumps(fields)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file of `save`."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            fields = json.loads(file.metadata()["fields"])
            return cls(**fields, vectors=file.get_tensor("vectors"), centers=file.get_tensor("centers"))


def activation_vectors(
    config: FeatureConfig, target: Target, token_ids: Sequence[Sequence[int]], layers: Sequence[int], seed: int
) -> Vectors:
    """The activations at `config.n_activations` random tokens of the corpus, at each layer.

    Special tokens and attention sinks are not drawn. The group of a token is its text. If the drawn texts are too
    short, fewer tokens are returned and a warning is logged.

    Args:
        config: settings of feature description.
        target: the model that is explained.
        token_ids: token ids of each text.
        layers: layers whose outputs are read.
        seed: seed of the draw.

    Returns:
        At most `n_activations` vectors per layer, from the same tokens at each layer.

    Raises:
        SelfExplainError: an activation is NaN or infinite.
    """
    n, rng = config.n_activations, np.random.default_rng(seed)
    drawn = [token_ids[i] for i in rng.choice(len(token_ids), min(n, len(token_ids)), replace=False).tolist()]
    vectors, texts = [], []
    for batch in residual_batches(target, drawn, layers, "sampling activations"):
        keep = batch.keep.all(0).cpu().numpy()
        for row, sequence in enumerate(batch.sequences.tolist()):
            positions = rng.permutation(np.flatnonzero(keep[row]))[: -(-n // len(drawn))]
            vectors.append(batch.hidden[:, row, positions].cpu())
            texts += [drawn[sequence]] * len(positions)
    groups = [f"activations-{hashlib.sha256(np.asarray(ids).tobytes()).hexdigest()[:12]}" for ids in texts][:n]
    if len(groups) < n:
        logger.warning(
            "activations: found %d of %d requested tokens. Use a corpus with more or longer texts.", len(groups), n
        )
    centers = _centers(config, target, token_ids, layers, seed)
    return Vectors(f"activations of {target.name}", list(layers), groups, torch.cat(vectors, dim=1)[:, :n], centers)


def difference_vectors(
    config: FeatureConfig,
    target: Target,
    pairs: Sequence[Pair],
    token_ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    seed: int,
) -> Vectors:
    """The difference of the activations at the last token between the two prompts of each pair, at each layer.

    Raises:
        SelfExplainError: there are no pairs, or a prompt does not fit into the context.
    """
    if not pairs:
        raise SelfExplainError("There are no counterfactual pairs, but at least one is needed. Pass one or more pairs.")

    def last(text: str) -> Tensor:
        ids = torch.tensor([target.encode(text)], device=target.model.device)
        return capture(target.model, ids, layers)[:, 0, -1].float().cpu()  # (n_layers, d)

    differences = torch.stack([last(pair.clean.text) - last(pair.source.text) for pair in pairs], dim=1)
    groups = [f"differences-{pair.clean.group}" for pair in pairs]
    centers = _centers(config, target, token_ids, layers, seed)
    return Vectors(f"activation differences of {target.name}", list(layers), groups, differences, centers)


def _centers(
    config: FeatureConfig, target: Target, token_ids: Sequence[Sequence[int]], layers: Sequence[int], seed: int
) -> Tensor:
    """Mean residual of each layer over random tokens, `(n_layers, d)`."""
    generator = torch.Generator().manual_seed(seed)
    return sample_activations(target, token_ids, layers, min(config.n_tokens, CENTER_TOKENS), generator).mean(1)


def vector_rows(
    config: FeatureConfig,
    target: Target,
    token_ids: Sequence[Sequence[int]],
    vectors: Vectors,
    work_dir: Path,
    classes: Mapping[str, set[str]],
    seed: int,
    state: ExemplarState | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row per vector that is active often enough to be scored, and counts.

    Rows contain vectors of unit norm, like the rows of features.

    Args:
        config: settings of feature description.
        target: the model that is explained.
        token_ids: token ids of each text of the corpus.
        vectors: the vectors to ask about.
        work_dir: see `feature_rows.build_rows`.
        classes: see `feature_rows.build_rows`.
        seed: seed of everything that is drawn.
        state: exemplars collected from the whole corpus for these vectors; None to collect them here.

    Raises:
        SelfExplainError: no vector is active often enough.
    """
    dictionaries = vectors.dictionaries(target)
    # Neuronpedia has no descriptions of these vectors. Poor descriptions are kept, because they are part of the test.
    writers = tuple(name for name in config.descriptions if name != "neuronpedia") or ("offline",)
    config = replace(config, descriptions=writers, min_correlation=-1.0, max_density=1.0, rows_per_feature=1)
    described, counts = describe_features(config, target, token_ids, dictionaries, work_dir, classes, seed, state)
    groups = [vectors.groups[entry.feature.feature] for entry in described]
    rows = rows_of(config, target, dictionaries, list(zip(described, groups, strict=True)), seed)
    if not rows:
        raise SelfExplainError(
            f"{vectors.source}: none of {counts['trained']} vectors is active often enough. Use a larger corpus."
        )
    sizes = {"vectors": counts["trained"], "rows": len(rows), "groups": len(set(groups))}
    return rows, sizes | {name: counts[name] for name in COUNTED}

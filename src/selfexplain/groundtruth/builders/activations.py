"""Directions that no dictionary was trained to find: whole activations, and their differences between counterfactuals.

Rows are those of feature description, found, described and scored by the same machinery, so that an explainer of
features can be tested on vectors unlike those it was trained on. As in Li et al., "Training Language Models to Explain
Their Own Computations" (arXiv 2511.08579), where the two sets are called ACT and dACT. As there, nothing is left out
because it is hard to describe, and what counts is how well a description foretells the projections on the vector.
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
from selfexplain.features.dictionary import Dictionary, of_directions
from selfexplain.features.exemplars import ExemplarState
from selfexplain.features.residuals import residual_batches
from selfexplain.features.saes import sample_activations
from selfexplain.groundtruth.builders.features import describe_features, rows_of
from selfexplain.groundtruth.config import FeatureConfig
from selfexplain.groundtruth.sources import Pair
from selfexplain.target.capture import capture
from selfexplain.target.load import Target

logger = logging.getLogger(__name__)

CENTER_TOKENS = 20_000  # that the mean residual is taken over
COUNTED = ("dead", "skipped", "poorly_described", "mean_simulator_score")


@dataclass(frozen=True)
class Vectors:
    """Vectors of the residual stream to ask about.

    Attributes:
        source: what they are, for the rows.
        layers: where they were read.
        groups: what each of the n is from: the same at every layer.
        vectors: `(n_layers, n, d)` float32, on the CPU.
        centers: `(n_layers, d)`, the mean residual of each layer.
    """

    source: str
    layers: list[int]
    groups: list[str]
    vectors: Tensor
    centers: Tensor

    def dictionaries(self, target: Target) -> list[Dictionary]:
        """Their directions, one dictionary a layer."""
        return [
            of_directions(vectors, layer, self.source, f"layer_{layer}", center.to(target.model.device))
            for layer, vectors, center in zip(self.layers, self.vectors, self.centers, strict=True)
        ]

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        from safetensors.torch import save_file

        told = {"source": self.source, "layers": self.layers, "groups": self.groups}
        tensors = {"vectors": self.vectors.contiguous(), "centers": self.centers.contiguous()}
        save_file(tensors, path, metadata={"told": json.dumps(told)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read back what `save` wrote."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["told"])
            return cls(**told, vectors=file.get_tensor("vectors"), centers=file.get_tensor("centers"))


def activation_vectors(
    config: FeatureConfig, target: Target, token_ids: Sequence[Sequence[int]], layers: Sequence[int], seed: int
) -> Vectors:
    """The activations at `config.n_activations` random tokens of the corpus, at each layer.

    Special tokens and attention sinks are not drawn. The text that a token is from is its group. Where the texts drawn
    are too short for all, a warning says how many there are.

    Args:
        token_ids: of each text.
        layers: whose outputs are taken.

    Returns:
        At most `n_activations` vectors a layer, the same tokens at each: `vectors (n_layers, n, d)`.

    Raises:
        SelfExplainError: an activation that is NaN or infinite.
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
        logger.warning("activations: %d tokens of %d wanted were found: take more or longer texts.", len(groups), n)
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
    """How the activation at the last token differs between the two prompts of each pair, at each layer.

    Raises:
        SelfExplainError: no pair, or a prompt that does not fit the context.
    """
    if not pairs:
        raise SelfExplainError("no counterfactual pairs given: at least one is needed.")

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
    passed: ExemplarState | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row about each vector that fires often enough to be scored, at unit norm as features are, and what was counted.

    Args:
        work_dir, classes, passed: as `features.build_rows` takes them.

    Raises:
        SelfExplainError: no vector fires often enough.
    """
    dictionaries = vectors.dictionaries(target)
    # Neuronpedia knows nothing of these; and what the grammar cannot say well is part of the test
    writers = tuple(name for name in config.descriptions if name != "neuronpedia") or ("offline",)
    config = replace(config, descriptions=writers, min_correlation=-1.0, rows_per_feature=1)
    described, counted = describe_features(config, target, token_ids, dictionaries, work_dir, classes, seed, passed)
    groups = [vectors.groups[one.feature.feature] for one in described]
    rows = rows_of(config, target, dictionaries, list(zip(described, groups, strict=True)), seed)
    told = {"vectors": counted["trained"], "rows": len(rows), "groups": len(set(groups))}
    if not rows:
        raise SelfExplainError(f"{vectors.source}: none of {told['vectors']} fires often enough: take more text.")
    return rows, told | {name: counted[name] for name in COUNTED}

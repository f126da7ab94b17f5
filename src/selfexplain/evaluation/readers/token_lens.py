"""The token lens: a linear map from the residual stream at a token to the input embedding of that token.

The map is a ridge regression in closed form, one per layer. It reads which token a vector comes from, which no language
model has to be trained for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from selfexplain.evaluation.readers.reader import Row
from selfexplain.modeling.activation_adapter import ActivationAdapter
from selfexplain.target.load import Target

RIDGES = (1e-3, 1e-2, 1e-1)
"""Candidate regularisations, as fractions of the mean diagonal of the Gram matrix."""

CHUNK = 512  # vectors that are compared with the whole vocabulary at a time


@dataclass(frozen=True)
class TokenLens:
    """A fitted lens.

    Attributes:
        target: the model whose vectors it reads.
        layers: the layers of the maps.
        maps: one map per layer, `(n_layers, d_model, d_model)`.
        ridge: regularisation of the maps.
    """

    target: Target
    layers: Sequence[int]
    maps: Tensor
    ridge: float

    @cached_property
    def token_ids(self) -> Tensor:
        """The tokens that can be read: all but special tokens, `(V,)`."""
        n_tokens, special = len(self.target.tokenizer), set(self.target.tokenizer.all_special_ids)
        n_embedded = self.target.model.get_input_embeddings().weight.shape[0]
        return torch.tensor([token for token in range(min(n_tokens, n_embedded)) if token not in special])

    @cached_property
    def _directions(self) -> Tensor:
        """The unit-normalised embeddings of these tokens, `(V, d_model)`."""
        weight = self.target.model.get_input_embeddings().weight.detach().float().cpu()[self.token_ids]
        return torch.nn.functional.normalize(weight, dim=-1)

    def similarities(self, vectors: Tensor, layers: Sequence[int]) -> Tensor:
        """Cosine of each mapped vector with the embedding of each of `token_ids`, `(N, V)`.

        Args:
            vectors: `(N, d_model)`.
            layers: layer of each vector. If a layer has no map, that of the nearest layer is used.
        """
        numbers = [min(range(len(self.layers)), key=lambda n: abs(self.layers[n] - layer)) for layer in layers]
        mapped = torch.stack([v @ self.maps[number] for v, number in zip(vectors.float(), numbers, strict=True)])
        return torch.nn.functional.normalize(mapped, dim=-1) @ self._directions.T

    def nearest(self, vectors: Tensor, layers: Sequence[int], k: int) -> Tensor:
        """The ids of the `k` nearest tokens of each vector, the nearest first, `(N, k)`. Arguments as above."""
        chunks = [
            self.similarities(vectors[start : start + CHUNK], layers[start : start + CHUNK]).topk(k).indices
            for start in range(0, len(vectors), CHUNK)
        ]
        return self.token_ids[torch.cat(chunks)]


def fit_maps(pairs: Sequence[tuple[Tensor, Tensor]], ridge: float) -> Tensor:
    """One map per layer, `(n_layers, d_model, d_model)`.

    Args:
        pairs: activations and embeddings at the same tokens, `(N, d_model)` each, for each layer.
        ridge: regularisation, as a fraction of the mean diagonal of the Gram matrix.
    """
    maps = []
    for activations, embeddings in pairs:
        width = activations.shape[1]
        adapter = ActivationAdapter(width, width, "linear", layers=[0])
        adapter.fit(activations[None].float(), embeddings[None].float(), ridge)
        maps.append(adapter.weight.detach()[0])
    return torch.stack(maps)


def first_vectors(rows: Sequence[Row]) -> Tensor:
    """The first vector of each row, `(N, d_model)` float32."""
    return torch.from_numpy(np.stack([np.asarray(row["activations"][0], np.float32) for row in rows]))

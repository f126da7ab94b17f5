"""Map activations of the target into the explainer."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from selfexplain.errors import SelfExplainError

AdapterKind = Literal["identity", "scale", "linear", "low_rank", "mlp"]


class ActivationAdapter(nn.Module):
    """A bias-free map of vectors for each layer of the target, and the two marker vectors around each slot.

    | kind | map of a vector v |
    |---|---|
    | `identity` | `v` |
    | `scale` | `gain v` |
    | `linear` | `v W` |
    | `low_rank` | `v D U` |
    | `mlp` | `v W + gelu(v D) U`, where U starts at zero |

    All parameters are plain float32 tensors, so libraries that quantise linear modules do not quantise them.

    Args:
        d_explainer: width of the explainer.
        d_target: width of the target's residual stream.
        kind: one of the kinds above.
        layers: layers of the target that get a map; `identity` needs none.
        rank: width of the bottleneck of `low_rank` and `mlp`.

    Attributes:
        markers: begin and end marker, `(2, d_explainer)`, on the scale of what enters block 0.
        layers: layers of the target that it can read, in the order of its weights; `identity` reads any layer.

    Raises:
        SelfExplainError: the widths, layers or rank do not fit the kind.
    """

    def __init__(
        self, d_explainer: int, d_target: int, kind: AdapterKind = "identity", layers: Sequence[int] = (), rank: int = 0
    ):
        super().__init__()
        self.kind, self.layers = kind, list(layers)
        self.d_target, self.d_explainer = d_target, d_explainer
        if kind in ("identity", "scale") and d_target != d_explainer:
            raise SelfExplainError(
                f"The target's activations have width {d_target} and the explainer has width {d_explainer}, but the "
                f"{kind} adapter needs equal widths. Choose an explainer of the target's width, or set "
                "adapter.kind=linear."
            )
        if kind != "identity" and not (layers and len(set(layers)) == len(layers)):
            raise SelfExplainError(
                f"The {kind} adapter got the layers {list(layers)}. Give at least one layer, and each layer once."
            )
        if kind in ("low_rank", "mlp") and rank < 1:
            raise SelfExplainError(
                f"The {kind} adapter got rank {rank}, expected 1 or more. Set adapter.rank to the width of its "
                "bottleneck."
            )
        self.markers = nn.Parameter(torch.zeros(2, d_explainer, dtype=torch.float32))

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(len(layers), *shape, dtype=torch.float32))

        if kind == "scale":
            self.gain = parameter()
        if kind in ("linear", "mlp"):
            self.weight = parameter(d_target, d_explainer)
        if kind in ("low_rank", "mlp"):
            self.down, self.up = parameter(d_target, rank), parameter(rank, d_explainer)

    @torch.no_grad()
    def reset(self, seed: int = 0) -> None:
        """Initialise the map: to the identity if the widths are equal, else to a random map that preserves the norm.

        `low_rank` always starts from random maps.

        Args:
            seed: seed of the random maps.
        """
        generator = torch.Generator().manual_seed(seed)

        def draw(parameter: Tensor) -> None:
            noise = torch.randn(parameter.shape, generator=generator) / parameter.shape[-2] ** 0.5
            parameter.copy_(noise)

        if self.kind == "scale":
            self.gain.fill_(1.0)
        if self.kind in ("linear", "mlp"):
            if self.d_target == self.d_explainer:
                self.weight.copy_(torch.eye(self.d_target).expand_as(self.weight))
            else:
                draw(self.weight)
        if self.kind in ("low_rank", "mlp"):
            draw(self.down)
        if self.kind == "low_rank":
            draw(self.up)

    def forward(
        self, vectors: Tensor | None = None, layers: Tensor | None = None, sides: Tensor | None = None
    ) -> Tensor:
        """Map vectors, each with the map of its layer, or return markers.

        All parameters are read in here, because libraries that offload or wrap modules provide them only to `forward`.

        Args:
            vectors: `(N, d_target)`.
            layers: layer of the target that each vector was taken from, `(N,)`.
            sides: for markers instead of vectors: 0 for the begin and 1 for the end marker, `(N,)`.

        Returns:
            `(N, d_explainer)`, float32.
        """
        if sides is not None:
            return self.markers[sides.to(self.markers.device)]
        assert vectors is not None and layers is not None
        vectors = vectors.to(self.markers.dtype)
        if self.kind == "identity":
            return vectors
        index = (layers[:, None] == torch.tensor(self.layers, device=layers.device)).int().argmax(-1)  # (N,)
        if self.kind == "scale":
            return vectors * self.gain[index, None]
        mapped = vectors.new_zeros(len(vectors), self.d_explainer)
        for layer in index.unique().tolist():
            selected = index == layer
            mapped[selected] = self._map(layer, vectors[selected])
        return mapped

    def _map(self, layer: int, vectors: Tensor) -> Tensor:
        """Map `(N, d_target)` to `(N, d_explainer)` with the map at index `layer` of `layers`."""
        if self.kind == "linear":
            return vectors @ self.weight[layer]
        if self.kind == "low_rank":
            return vectors @ self.down[layer] @ self.up[layer]
        return vectors @ self.weight[layer] + nn.functional.gelu(vectors @ self.down[layer]) @ self.up[layer]

    @torch.no_grad()
    def fit(self, target_acts: Tensor, explainer_acts: Tensor, ridge: float = 1e-3) -> None:
        """Set each map to the least-squares map from the target's activations to the explainer's.

        `scale` gets the best gain, `linear` and `mlp` the best linear map (ridge regression), `low_rank` the best map
        of its rank (reduced-rank regression). `identity` has no parameters to fit.

        Args:
            target_acts: activations of the target, `(L, N, d_target)` with one entry of L per layer of `layers`.
            explainer_acts: activations of the explainer at the same N tokens of the same texts, `(L, N, d_explainer)`.
            ridge: ridge penalty as a fraction of the mean of the Gram matrix's diagonal.

        Raises:
            SelfExplainError: the shapes of the two do not match.
        """
        expected = ((len(self.layers), self.d_target), (len(self.layers), self.d_explainer))
        actual = tuple((acts.shape[0], acts.shape[-1]) for acts in (target_acts, explainer_acts))
        if actual != expected or target_acts.shape[1] != explainer_acts.shape[1] or not target_acts.shape[1]:
            n_layers = len(self.layers)
            raise SelfExplainError(
                f"The paired activations have the shapes {tuple(target_acts.shape)} and {tuple(explainer_acts.shape)}, "
                f"expected ({n_layers}, N, {self.d_target}) and ({n_layers}, N, {self.d_explainer}). Give one "
                "activation of each model per token and layer, for at least one token."
            )
        for layer in range(len(self.layers)):
            x, y = target_acts[layer].double(), explainer_acts[layer].double()  # (N, d_target), (N, d_explainer)
            if self.kind == "scale":
                self.gain[layer] = (x * y).sum() / (x * x).sum()
            elif self.kind != "identity":
                self._fit_map(layer, x, y, ridge)

    def _fit_map(self, layer: int, x: Tensor, y: Tensor, ridge: float) -> None:
        """Fit the linear or low-rank map at index `layer` of `layers` to `x (N, d_target)`, `y (N, d_explainer)`."""
        gram = x.T @ x
        gram.diagonal().add_(ridge * gram.diagonal().mean())
        weight = torch.linalg.solve(gram, x.T @ y)  # (d_target, d_explainer)
        if self.kind == "low_rank":
            rank = self.down.shape[-1]
            components = torch.linalg.svd(x @ weight, full_matrices=False).Vh[:rank]  # (<= rank, d_explainer)
            self.down[layer].zero_()[:, : len(components)] = (weight @ components.T).float()
            self.up[layer].zero_()[: len(components)] = components.float()
        else:
            self.weight[layer] = weight.float()

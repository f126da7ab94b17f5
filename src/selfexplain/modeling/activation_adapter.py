"""Maps activations of the target into the explainer."""

import torch
from torch import Tensor, nn

from selfexplain.errors import SelfExplainError


class ActivationAdapter(nn.Module):
    """Identity on the vectors (explainer and target have one width), and the two marker vectors around each slot.

    Attributes:
        markers: `(2, d)`, begin and end, float32, never quantised.
    """

    def __init__(self, d_target: int, d_explainer: int):
        super().__init__()
        if d_target != d_explainer:
            raise SelfExplainError(
                f"the target's activations have width {d_target}, the explainer {d_explainer}: "
                "the identity adapter needs equal widths. Choose an explainer of the target's width."
            )
        self.markers = nn.Parameter(torch.zeros(2, d_explainer))

    def forward(self, activations: Tensor) -> Tensor:
        """`(B, K, d_target)` -> `(B, K, d_explainer)`, float32."""
        return activations.to(self.markers.dtype)

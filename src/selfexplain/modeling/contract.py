"""The injection contract: how a vector enters an explainer. Get it wrong and the answers are fluent nonsense."""

from dataclasses import dataclass
from typing import Literal

from selfexplain.errors import SelfExplainError


@dataclass
class InjectionConfig:
    """Where and how a vector v is written at its slot, where the residual stream holds h.

    Attributes:
        site: "embedding", the tensor that enters block 0, or "block_output", what leaves block `block`.
        block: the decoder block of "block_output".
        operation: "replace" h, or "add" to it.
        norm: "raw" writes `scale * v`, "unit" `scale * v / |v|`, "match" `scale * |h| * v / |v|`; a zero vector
            stays zero.
        scale: the factor above.
        placeholder: text whose first token stands in the slot; read by "add" and "match" only.
        markers: whether two learned vectors, owned by the adapter, stand before and after the slot.
    """

    site: Literal["embedding", "block_output"] = "embedding"
    block: int = 0
    operation: Literal["replace", "add"] = "replace"
    norm: Literal["raw", "unit", "match"] = "match"
    scale: float = 1.0
    placeholder: str = "?"
    markers: bool = True

    def check(self, n_layers: int) -> None:
        """Raise SelfExplainError where the contract names a block that the explainer does not have."""
        if self.site == "block_output" and not 0 <= self.block < n_layers:
            raise SelfExplainError(f"injection.block is {self.block}; the explainer has blocks 0 to {n_layers - 1}.")

"""The injection contract: how vectors enter an explainer.

An explainer that is loaded under a different contract than it was trained with raises no error; its answers are fluent
but unrelated to the vectors.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from selfexplain.errors import SelfExplainError


@dataclass
class InjectionConfig:
    """Where and how a vector v is written at its slot, where the residual stream is h.

    Attributes:
        site: tensor that is written to: "embedding" (the input of block 0), "block_input" or "block_output" (the input
            or output of block `block`).
        block: index of the decoder block for "block_input" and "block_output".
        operation: "replace" writes the scaled vector in place of h, "add" adds it to h.
        norm: how the vector is scaled: "raw" writes `scale * v`, "unit" `scale * v / |v|`, "match"
            `scale * |h| * v / |v|`. A zero vector stays zero.
        scale: factor in these formulas.
        placeholder: text whose first token fills the slot in the prompt. Its embedding only matters for the operation
            "add", the norm "match", and sites above the embedding.
        placeholder_id: token id in the slot if the contract fixes it; None uses the first token of `placeholder`.
        first_placeholder_id: token id in the first of several adjacent slots, if it differs from the others.
        neighbour_ids: token ids that must be before and after the slot, if the contract fixes them.
        markers: whether two learned vectors, stored in the adapter, are written before and after the slot.
        template: prompt of a free question, with `{layer}`, `{activation}` and `{question}`; None uses the package's
            own wording. `{activation}` stands for all vectors of one layer; equal consecutive layers share one copy of
            the text before `{question}`.
        chat: whether the prompt is wrapped in a user turn; None does so if the tokenizer has a chat template.
        layers: combinations of target layers that the explainer was trained on; None if unknown.
        family: name of the contract: "selfexplain" or a key of `third_party.contracts.FAMILIES`.
    """

    site: Literal["embedding", "block_output", "block_input"] = "embedding"
    block: int = 0
    operation: Literal["replace", "add"] = "replace"
    norm: Literal["raw", "unit", "match"] = "match"
    scale: float = 1.0
    placeholder: str = "?"
    placeholder_id: int | None = None
    first_placeholder_id: int | None = None
    neighbour_ids: tuple[int, int] | None = None
    markers: bool = True
    template: str | None = None
    chat: bool | None = None
    layers: tuple[tuple[int, ...], ...] | None = None
    family: str = "selfexplain"

    def __post_init__(self) -> None:
        # JSON turns tuples into lists.
        if self.neighbour_ids is not None:
            before, after = self.neighbour_ids
            self.neighbour_ids = (before, after)
        if self.layers is not None:
            self.layers = tuple(tuple(combination) for combination in self.layers)

    def check(self, n_layers: int) -> None:
        """Check that the explainer has the block that the contract writes to.

        Raises:
            SelfExplainError: it has no such block.
        """
        if self.site != "embedding" and not 0 <= self.block < n_layers:
            raise SelfExplainError(
                f"injection.block is {self.block}, but the explainer has blocks 0 to {n_layers - 1}. Choose one."
            )

    def describe(self) -> str:
        """Return the contract in one line, as a formula and a prompt."""
        site = {"embedding": "input embedding", "block_input": "input", "block_output": "output"}[self.site]
        place = site if self.site == "embedding" else f"{site} of block {self.block}"
        vector = {"raw": "v", "unit": "v/|v|", "match": "|h| v/|v|"}[self.norm]
        factor = "" if self.scale == 1 else f"{self.scale:g} "
        written = f"{'h + ' if self.operation == 'add' else ''}{factor}{vector}"
        slot = (
            repr(self.placeholder) if self.placeholder_id is None else f"{self.placeholder!r} ({self.placeholder_id})"
        )
        parts = [f"{self.family}: {written} at the {place}, token {slot}"]
        if self.markers:
            parts.append("between two markers")
        if self.layers is not None:
            parts.append(f"target layers {_format_layers(self.layers)}")
        if self.template is not None:
            parts.append(f"asked as {self.template!r}")
        return ", ".join(parts)


def _format_layers(combinations: Iterable[Iterable[int]]) -> str:
    """Format combinations of layers: `((1, 2), (3,))` becomes "1+2 or 3"."""
    return " or ".join("+".join(map(str, layers)) for layers in combinations)

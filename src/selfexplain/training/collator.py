"""Ground-truth rows as training batches."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor


def tokenize(row: Mapping, processor: SelfExplainerProcessor, max_length: int) -> dict:
    """Ids of prompt, completion and end of text; the loss is on the completion and the end alone.

    Raises:
        SelfExplainError: more tokens than the context holds, or a tokenizer without an end of text.
    """
    prompt, positions = processor.encode(row["prompt"], row["placeholder_offsets"])
    tokenizer = processor.tokenizer
    if tokenizer.eos_token_id is None:
        raise SelfExplainError("the explainer's tokenizer has no end-of-text token (eos_token), so answers cannot end.")
    completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    if len(prompt) + len(completion) > max_length:
        raise SelfExplainError(
            f"a row has {len(prompt) + len(completion)} tokens, the context holds {max_length}: "
            f"{row['prompt'][:80]!r}..."
        )
    return {
        "input_ids": prompt + completion,
        "labels": [-100] * len(prompt) + completion,
        "positions": positions,
        "length": len(prompt) + len(completion),
    }


class SelfExplainerCollator:
    """Right-padded batches with vectors; padding and prompt are not in the loss."""

    def __init__(self, processor: SelfExplainerProcessor):
        self.processor = processor

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, `labels` `(B, T)`; vectors as `SelfExplainerProcessor.collate` gives them."""
        ids = [list(row["input_ids"]) for row in rows]
        batch = self.processor.collate(ids, [list(row["positions"]) for row in rows], rows, left=False)
        length = batch["input_ids"].shape[1]
        batch["labels"] = torch.tensor([list(row["labels"]) + [-100] * (length - len(row["labels"])) for row in rows])
        return batch

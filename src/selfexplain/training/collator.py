"""Turn ground-truth rows into training batches: tokenise rows, pad them, and add vectors and labels."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor

IGNORED_LABEL = -100
"""Label of tokens that are not part of the loss."""


def tokenize(row: Mapping, processor: SelfExplainerProcessor, max_length: int) -> dict:
    """Tokenise a row as prompt, completion and end-of-text token. Only the latter two are part of the loss.

    Args:
        row: row with `prompt`, `placeholder_offsets` and `completion`.
        processor: processor of the explainer.
        max_length: maximum number of tokens.

    Returns:
        `input_ids` and `labels`, `positions` of the placeholders, and `length`.

    Raises:
        SelfExplainError: the row has more than `max_length` tokens, or the tokenizer has no end-of-text token.
    """
    tokenizer = processor.tokenizer
    if tokenizer.eos_token_id is None:
        raise SelfExplainError(
            "The explainer's tokenizer has no end-of-text token, so the explainer could not learn to end its answers. "
            "Set tokenizer.eos_token."
        )
    prompt, positions, completion = processor.encode_answered(row, row["completion"])
    completion = [*completion, tokenizer.eos_token_id]
    length = len(prompt) + len(completion)
    if length > max_length:
        raise SelfExplainError(
            f"A training row has {length} tokens, but the context holds {max_length}. Remove the row, or use a base "
            f"with a longer context. The row begins with {row['prompt'][:80]!r}."
        )
    return {
        "input_ids": prompt + completion,
        "labels": [IGNORED_LABEL] * len(prompt) + completion,
        "positions": positions,
        "length": length,
    }


class SelfExplainerCollator:
    """Collates tokenised rows into batches that are padded on the right. Prompts and padding are not in the loss.

    Args:
        processor: processor of the explainer.
    """

    def __init__(self, processor: SelfExplainerProcessor):
        self.processor = processor

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, Tensor]:
        """Collate rows.

        Args:
            rows: rows with the columns of `tokenize`, `activations` and `activation_layers`.

        Returns:
            `input_ids`, `attention_mask` and `labels`, each `(B, T)`, and the vector inputs of
            `SelfExplainerProcessor.collate`.
        """
        ids = [list(row["input_ids"]) for row in rows]
        batch = self.processor.collate(ids, [list(row["positions"]) for row in rows], rows, left=False)
        length = batch["input_ids"].shape[1]
        labels = [list(row["labels"]) + [IGNORED_LABEL] * (length - len(row["labels"])) for row in rows]
        batch["labels"] = torch.tensor(labels)
        return batch

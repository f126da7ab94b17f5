"""Turn ground-truth rows into training batches: tokenise rows, pad them, and add vectors and labels."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor

IGNORED_LABEL = -100
"""Label of tokens that are not part of the loss."""


def tokenize(row: Mapping, processor: SelfExplainerProcessor, max_length: int | None = None) -> dict:
    """Tokenise a row as prompt, completion and end-of-text token. Only the latter two are part of the loss.

    Args:
        row: row with `prompt`, `placeholder_offsets` and `completion`.
        processor: processor of the explainer.
        max_length: maximum number of tokens; None for no limit.

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
    if max_length is not None and length > max_length:
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
    """Collates rows into batches that are padded on the right. Prompts and padding are not in the loss.

    Any trainer can use it, with `remove_unused_columns=False` so that the rows keep their vectors.

    Args:
        processor: processor of the explainer.
        max_length: maximum number of tokens of a row that is tokenised here; None for no limit.
    """

    def __init__(self, processor: SelfExplainerProcessor, max_length: int | None = None):
        self.processor = processor
        self.max_length = max_length

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, Tensor]:
        """Collate rows.

        Args:
            rows: ground-truth rows, or rows with the columns of `tokenize`, `activations` and `activation_layers`.

        Returns:
            `input_ids`, `attention_mask` and `labels`, each `(B, T)`, and the vector inputs of
            `SelfExplainerProcessor.collate`. Without vectors, `activation_mask` is empty, `(B, 0)`.

        Raises:
            SelfExplainError: a row lacks a column.
        """
        rows = [self._tokenized(row) for row in rows]
        ids = [list(row["input_ids"]) for row in rows]
        batch = self.processor.collate(ids, [list(row["positions"]) for row in rows], rows, left=False)
        length = batch["input_ids"].shape[1]
        labels = [list(row["labels"]) + [IGNORED_LABEL] * (length - len(row["labels"])) for row in rows]
        batch["labels"] = torch.tensor(labels)
        return _mark_without_vectors(batch)

    def _tokenized(self, row: Mapping) -> Mapping:
        tokenized = "positions" in row
        _require_columns(row, ("input_ids", "labels") if tokenized else ("prompt", "placeholder_offsets", "completion"))
        return row if tokenized else {**row, **tokenize(row, self.processor, self.max_length)}


class SelfExplainerPreferenceCollator:
    """Collates preference pairs into batches for TRL's `DPOTrainer`, first all chosen and then all rejected answers.

    Use it with `remove_unused_columns=False`, so that the rows keep their vectors.

    Args:
        processor: processor of the explainer.
        max_length: maximum number of tokens of a prompt with its answer; None for no limit.
    """

    def __init__(self, processor: SelfExplainerProcessor, max_length: int | None = None):
        self.processor = processor
        self.max_length = max_length

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, Tensor]:
        """Collate preference pairs.

        Args:
            rows: rows with `prompt`, `placeholder_offsets`, `activations` and `activation_layers`, and the answers
                `chosen` and `rejected`.

        Returns:
            `input_ids`, `attention_mask` and `completion_mask`, each `(2 * B, T)`, the vector inputs of
            `SelfExplainerProcessor.collate`, and the columns `ref_chosen_logps` and `ref_rejected_logps` of the rows,
            `(B,)`.

        Raises:
            SelfExplainError: a row lacks a column.
        """
        eos_token = self.processor.tokenizer.eos_token  # TRL appends its spelling to the answers
        answered = []
        for name in ("chosen", "rejected"):
            for row in rows:
                _require_columns(row, ("prompt", "placeholder_offsets", name))
                answer = row[name] if eos_token is None else row[name].removesuffix(eos_token)
                answered.append(tokenize({**row, "completion": answer}, self.processor, self.max_length))
        ids, positions = ([row[name] for row in answered] for name in ("input_ids", "positions"))
        batch = self.processor.collate(ids, positions, [*rows, *rows], left=False)
        length = batch["input_ids"].shape[1]
        masks = [[int(label != IGNORED_LABEL) for label in row["labels"]] for row in answered]
        batch["completion_mask"] = torch.tensor([mask + [0] * (length - len(mask)) for mask in masks])
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        return _mark_without_vectors(batch)


def _require_columns(row: Mapping, names: Sequence[str]) -> None:
    missing = [name for name in (*names, "activations", "activation_layers") if name not in row]
    if missing:
        raise SelfExplainError(
            f"A row has the columns {', '.join(row)}, but {', '.join(missing)} are missing. Give ground-truth rows "
            "with all their columns, and set remove_unused_columns=False in the training arguments."
        )


def _mark_without_vectors(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add an empty `activation_mask` to a batch without vectors; see `check_without_vectors`."""
    if "activations" in batch:
        return batch
    return batch | {"activation_mask": torch.zeros(len(batch["input_ids"]), 0, dtype=torch.bool)}

"""Reference texts: similarity of a vector to the residual stream at every token of a set of texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from examples import FeatureExample
from selfexplain import capture
from selfexplain.target.tokens import token_text
from selfexplain.tasks.feature_description import TASK
from showcase import Showcase

BATCH_SIZE = 32


@dataclass(frozen=True)
class ReferenceTexts:
    """Texts and the residual stream at their tokens, after one layer.

    Attributes:
        tokens: Tokens of each text, without special tokens.
        residuals: One tensor `(T, d)` per text.
        mean: `(d,)`, mean over all tokens.
    """

    tokens: list[list[str]]
    residuals: list[Tensor]
    mean: Tensor

    def similarity(self, residuals: Tensor, direction: Tensor) -> np.ndarray:
        """Return the cosine similarity of a direction to centred residuals, `(T,)`; negative values become 0."""
        return cosine_similarity(residuals - self.mean, direction, dim=-1).clamp(min=0).numpy()


@lru_cache(maxsize=8)
def reference_texts(showcase: Showcase, layer: int) -> ReferenceTexts:
    """Run the target on the reference texts of a showcase."""
    texts = showcase.texts or [example.text for example in showcase.examples_of(TASK.name, FeatureExample)]
    tokens, residuals = _run_target(showcase, texts, layer)
    return ReferenceTexts(tokens, residuals, torch.cat(residuals).mean(0))


def _run_target(showcase: Showcase, texts: Sequence[str], layer: int) -> tuple[list[list[str]], list[Tensor]]:
    """Return the tokens of each text and the residual stream at them, `(T, d)` on the CPU, without special tokens."""
    tokenizer, device = showcase.target.tokenizer, showcase.target.model.device
    encoded = [showcase.target.encode(text) for text in texts]
    kept = [[n for n, token in enumerate(ids) if token not in tokenizer.all_special_ids] for ids in encoded]
    residuals: list[Tensor] = []
    with showcase.reading_target() as target:
        for start in range(0, len(encoded), BATCH_SIZE):
            batch = encoded[start : start + BATCH_SIZE]
            length = max(map(len, batch))
            ids = torch.tensor([row + [target.pad_token_id] * (length - len(row)) for row in batch])
            mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in batch])
            outputs = capture(target.model, ids.to(device), [layer], mask.to(device))[0].float().cpu()
            positions = kept[start : start + BATCH_SIZE]
            residuals += [output[rows] for output, rows in zip(outputs, positions, strict=True)]
    tokens = [[token_text(tokenizer, ids[n]) for n in rows] for ids, rows in zip(encoded, kept, strict=True)]
    return tokens, residuals

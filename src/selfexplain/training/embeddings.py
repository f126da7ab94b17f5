"""Find tokens that a base model cannot distinguish because it never saw them in training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_MIN_COSINE = 0.999
_CHUNK = 1024  # token ids per matrix product


def indistinct_tokens(embeddings: "Tensor", used: Sequence[int]) -> list[int]:
    """Return the used token ids whose embedding has the same direction as that of a different token.

    Tokens that a model never saw in training often share one embedding. If it is frozen, the model can neither
    distinguish these tokens in its input nor choose between them in its output, because their logits are equal.

    Args:
        embeddings: embedding matrix, `(vocabulary, d)`.
        used: token ids to check.
    """
    import torch

    unit = torch.nn.functional.normalize(embeddings.detach().float(), dim=-1)
    indistinct = []
    for start in range(0, len(used), _CHUNK):
        ids = torch.tensor(used[start : start + _CHUNK], device=unit.device)
        n_similar = (unit[ids] @ unit.T > _MIN_COSINE).sum(dim=-1)  # includes the token itself
        indistinct += ids[n_similar > 1].tolist()
    return indistinct

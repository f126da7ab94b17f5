"""Compute the residual stream of a corpus in batches and mark special tokens and attention sinks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.target.capture import capture
from selfexplain.target.load import Target

TOKENS_PER_BATCH = 4096
SINK_RATIO = 10.0  # a position is an attention sink if its norm exceeds this multiple of its sequence's median


@dataclass(frozen=True)
class ResidualBatch:
    """Block outputs of some sequences.

    Attributes:
        sequences: indices into the corpus, `(B,)`, on the CPU.
        words: whether a position is a regular token rather than padding or a special token, `(B, T)`.
        sinks: whether a regular token is an attention sink at each layer, `(n_layers, B, T)`.
        hidden: block outputs, `(n_layers, B, T, d)` float32.
        n_special: number of special tokens in the batch.
    """

    sequences: Tensor
    words: Tensor
    sinks: Tensor
    hidden: Tensor
    n_special: int

    @property
    def keep(self) -> Tensor:
        """Whether a position is a regular token and not an attention sink, `(n_layers, B, T)`."""
        return self.words & ~self.sinks


def token_batches(
    target: Target, token_ids: Sequence[Sequence[int]], desc: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batch sequences of similar length, with a progress bar.

    Batches depend only on the sequences.

    Args:
        token_ids: token ids of each sequence.
        desc: label of the progress bar.

    Yields:
        Indices of the sequences `(B,)` on the CPU, token ids `(B, T)` and mask `(B, T)`.
    """
    order = sorted(range(len(token_ids)), key=lambda index: len(token_ids[index]))
    device = target.model.device
    start = 0
    with tqdm(total=len(order), desc=desc, unit="text") as bar:
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(token_ids[order[stop]]) <= TOKENS_PER_BATCH:
                stop += 1
            lengths = torch.tensor([len(token_ids[index]) for index in order[start:stop]])
            mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, T)
            input_ids = torch.full(mask.shape, target.pad_token_id)
            input_ids[mask] = torch.tensor([token for index in order[start:stop] for token in token_ids[index]])
            yield torch.tensor(order[start:stop]), input_ids.to(device), mask.to(device)
            bar.update(stop - start)
            start = stop


@torch.no_grad()
def residual_batches(
    target: Target, token_ids: Sequence[Sequence[int]], layers: Sequence[int], desc: str
) -> Iterator[ResidualBatch]:
    """Run the target on sequences, in batches of similar length, with a progress bar.

    Attention sinks are a few tokens, mostly the first, whose norm is an outlier and whose activations carry no
    information about the text. They are detected as in Sun et al., "Massive Activations in Large Language Models"
    (arXiv 2402.17762).

    Args:
        token_ids: token ids of each sequence.
        layers: decoder blocks whose outputs are returned.
        desc: label of the progress bar.

    Raises:
        SelfExplainError: an activation is NaN or infinite.
    """
    special = torch.tensor(target.tokenizer.all_special_ids, device=target.model.device)
    for sequences, input_ids, mask in token_batches(target, token_ids, desc):
        words = mask & ~torch.isin(input_ids, special)  # (B, T)
        hidden = capture(target.model, input_ids, layers, mask).float()
        norms = hidden.norm(dim=-1).masked_fill(~words, torch.nan)  # (n_layers, B, T)
        broken = ~norms.isfinite() & words
        if broken.any():
            at, row, position = broken.nonzero()[0].tolist()
            raise SelfExplainError(
                f"The activation of {target.name} after block {layers[at]} at token {position} of text "
                f"{int(sequences[row])} is not finite. Load the model with dtype=float32 (float16 overflows on "
                "models trained in bfloat16), and check its weights."
            )
        sinks = norms > SINK_RATIO * norms.nanmedian(dim=-1, keepdim=True).values
        yield ResidualBatch(sequences, words, sinks, hidden, int(mask.sum() - words.sum()))

"""The logit lens: read a vector of the residual stream with the target's own final norm and head."""

from collections.abc import Iterator

import torch
from torch import Tensor

from selfexplain.target.blocks import decoder_blocks
from selfexplain.target.load import Target
from selfexplain.target.resume import hooked


@torch.no_grad()
def logit_lens(target: Target, vectors: Tensor, batch_size: int = 256) -> Iterator[Tensor]:
    """Next-token logits that the target computes if a vector is the output of its last block.

    The model itself runs from there on, so that its final norm, its head and what it does to logits apply.

    Args:
        vectors: `(N, d_model)`.
        batch_size: number of vectors per forward pass.

    Yields:
        Logits of consecutive vectors, `(<= batch_size, vocabulary)` float32 on the CPU.
    """
    target = target.private()
    last = decoder_blocks(target.model)[-1]
    for batch in vectors.split(batch_size):

        def write(module, args, output, batch=batch):
            hidden = output[0] if isinstance(output, tuple) else output
            written = batch[:, None].to(hidden)
            return (written, *output[1:]) if isinstance(output, tuple) else written

        ids = torch.full((len(batch), 1), target.pad_token_id, device=target.model.device)
        with hooked(last, write):
            logits = target.model(input_ids=ids, use_cache=False).logits
        yield logits[:, -1].float().cpu()

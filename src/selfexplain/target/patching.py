"""Activation patching: replace the residual stream at some layers and one token, read the next-token logits.

Nothing before the patched token changes, and nothing below the first patched block. So a clean run keeps keys, values
and block outputs; a patch resumes after its first block, on the tokens from its position on.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from selfexplain.target.blocks import decoder_blocks
from selfexplain.target.capture import recording

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CleanRun:
    """What a clean run of prompts of one length leaves for patches.

    Attributes:
        input_ids: `(B, T)`.
        hidden: block outputs, `(n_layers, B, T, d)`.
        keys, values: of each block, `(B, n_heads, T, d_head)`.
        logits: of the next token, `(B, vocabulary)`.
    """

    input_ids: Tensor
    hidden: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    logits: Tensor


@torch.no_grad()
def clean_run(model: nn.Module, input_ids: Tensor) -> CleanRun:
    """Run prompts `(B, T)`, none of them padded."""
    n_layers = len(decoder_blocks(model))
    with recording(model, range(n_layers)) as outputs:
        result = model(input_ids=input_ids, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1)
    layers = result.past_key_values.layers
    hidden = torch.stack([outputs[layer] for layer in range(n_layers)])
    return CleanRun(input_ids, hidden, [x.keys for x in layers], [x.values for x in layers], result.logits[:, -1])


@contextmanager
def _replaced(block: nn.Module, output: Tensor) -> Iterator[None]:
    """While open, `block` computes nothing and returns `output`."""
    original = block.forward
    block.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        block.forward = original


def _write(vectors: Tensor, positions: Tensor):
    rows = torch.arange(len(positions), device=positions.device)

    def hook(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.index_put((rows, positions), vectors.to(hidden.dtype))
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return hook


@torch.no_grad()
def patched_logits(
    model: nn.Module, clean: CleanRun, prompts: Tensor, positions: Tensor, vectors: Tensor, layers: Sequence[int]
) -> Tensor:
    """Next-token logits `(N, vocabulary)`, row n's vector in place of the outputs of blocks `layers` at its position.

    Args:
        prompts: `(N,)`, which prompt of `clean` each row patches.
        positions: `(N,)`, token index of each patch, from 0.
        vectors: `(N, d)`.
        layers: contiguous blocks, ascending, the same for all rows.
    """
    blocks = decoder_blocks(model)
    first = layers[0]
    start = int(positions.min())
    suffix = clean.hidden[first][prompts, start:]  # (N, S, d)
    rows = torch.arange(len(prompts), device=prompts.device)
    suffix = suffix.index_put((rows, positions - start), vectors.to(suffix.dtype))
    cache = DynamicCache()
    if start:
        for layer, (keys, values) in enumerate(zip(clean.keys, clean.values, strict=True)):
            needed = prompts if layer > first or layer == 0 else prompts[:0]  # block 0 tells the cache's length
            cache.update(keys[needed, :, :start], values[needed, :, :start], layer)
    with ExitStack() as stack:
        for layer in range(first + 1):
            stack.enter_context(_replaced(blocks[layer], suffix))
        for layer in layers[1:]:
            handle = blocks[layer].register_forward_hook(_write(vectors, positions - start))
            stack.callback(handle.remove)
        return model(
            input_ids=clean.input_ids[prompts, start:], past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits[:, -1]


@torch.no_grad()
def patched_logits_plain(
    model: nn.Module, clean: CleanRun, prompts: Tensor, positions: Tensor, vectors: Tensor, layers: Sequence[int]
) -> Tensor:
    """The same by full forward passes with hooks: slower, and right for any architecture."""
    blocks = decoder_blocks(model)
    with ExitStack() as stack:
        for layer in layers:
            handle = blocks[layer].register_forward_hook(_write(vectors, positions))
            stack.callback(handle.remove)
        return model(input_ids=clean.input_ids[prompts], use_cache=False, logits_to_keep=1).logits[:, -1]


def exact_method(
    model: nn.Module, clean: CleanRun, prompts: Tensor, positions: Tensor, vectors: Tensor, layers: Sequence[int]
):
    """`patched_logits` where it agrees with full forward passes on this sample, `patched_logits_plain` where not."""
    arguments = (model, clean, prompts, positions, vectors, layers)
    plain = patched_logits_plain(*arguments)
    try:
        resumed = patched_logits(*arguments)
        agrees = torch.equal(plain.argmax(-1), resumed.argmax(-1)) and torch.allclose(
            plain, resumed, atol=1e-3, rtol=1e-3
        )
        reason = f"logits differ by {(plain - resumed).abs().max().item():.2g}"
    except (TypeError, RuntimeError, ValueError, IndexError) as error:
        agrees, reason = False, str(error).splitlines()[0]
    if not agrees:
        logger.warning(
            "patching %s with full forward passes: resuming at the patched block is not exact here (%s).",
            type(model).__name__,
            reason,
        )
    return patched_logits if agrees else patched_logits_plain

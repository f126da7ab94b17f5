"""Read the residual stream."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from selfexplain.errors import SelfExplainError
from selfexplain.target.blocks import backbone, decoder_blocks


def check_layers(layers: Sequence[int], n_layers: int) -> list[int]:
    """Layers counted from 0, negative ones from the end, as plain non-negative integers.

    Raises:
        SelfExplainError: a layer that does not exist, or none at all.
    """
    wrong = [layer for layer in layers if not -n_layers <= layer < n_layers]
    if wrong or not layers:
        raise SelfExplainError(f"layers {list(layers)} given; the model has layers 0 to {n_layers - 1}.")
    return [layer % n_layers for layer in layers]


@contextmanager
def recording(model: nn.Module, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """While open, each forward pass fills the dictionary with layer -> block output `(B, T, d)`."""
    blocks = decoder_blocks(model)
    outputs: dict[int, Tensor] = {}

    def keep(layer: int):
        def hook(module, args, output):
            outputs[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [blocks[layer].register_forward_hook(keep(layer)) for layer in check_layers(layers, len(blocks))]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def capture(model: nn.Module, input_ids: Tensor, layers: Sequence[int], attention_mask: Tensor | None = None) -> Tensor:
    """Outputs of the decoder blocks `layers`, `(n_layers, B, T, d)`, in the order given.

    Layer i is the output of decoder block i, `hidden_states[i + 1]` of transformers; unlike there, the last layer is
    taken before the final norm.

    Args:
        input_ids: `(B, T)`.
        attention_mask: `(B, T)`, 1 for tokens and 0 for padding; None where nothing is padded.

    Raises:
        SelfExplainError: a layer that does not exist.
    """
    with recording(model, layers) as outputs:
        backbone(model)(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    return torch.stack([outputs[layer] for layer in check_layers(layers, len(decoder_blocks(model)))])

"""Read the residual stream of the target."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import index

import torch
from torch import Tensor, nn

from selfexplain.errors import SelfExplainError
from selfexplain.target.blocks import backbone, decoder_blocks
from selfexplain.target.private_copy import check_embeddings, private_copy

Layers = int | Iterable[int]
"""Layer numbers: an integer, a list, a range, an array or a tensor."""


def layer_numbers(layers: Layers) -> list[int]:
    """Layer numbers as a list of integers.

    Raises:
        SelfExplainError: a layer is not an integer.
    """
    values = layers.tolist() if hasattr(layers, "tolist") else layers
    try:
        numbers = [values] if isinstance(values, int) else list(values)
        if any(isinstance(number, bool | str) for number in numbers):
            raise TypeError
        return [index(number) for number in numbers]
    except TypeError:
        raise SelfExplainError(
            f"Layers {layers!r} were given. Expected an integer, or a list, range or array of integers."
        ) from None


def check_layers(layers: Layers, n_layers: int) -> list[int]:
    """Convert layer numbers to non-negative integers; negative numbers count from the last layer.

    Raises:
        SelfExplainError: a layer is not an integer or does not exist, or no layer is given.
    """
    numbers = layer_numbers(layers)
    if not numbers or any(not -n_layers <= layer < n_layers for layer in numbers):
        raise SelfExplainError(
            f"Layers {numbers} were given; the model has layers 0 to {n_layers - 1}. Give at least one of them."
        )
    return [layer % n_layers for layer in numbers]


@contextmanager
def recording(model: nn.Module, layers: Layers) -> Iterator[dict[int, Tensor]]:
    """A dictionary that each forward pass inside the block fills with layer -> block output `(B, T, d)`."""
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
def capture(model: nn.Module, input_ids: Tensor, layers: Layers, attention_mask: Tensor | None = None) -> Tensor:
    """Outputs of the decoder blocks `layers`, `(n_layers, B, T, d)`, in the given order.

    Layer i is the output of decoder block i. It equals `hidden_states[i + 1]` of transformers, except that the last
    layer is taken before the final norm.

    Args:
        input_ids: token ids, `(B, T)`.
        layers: layer numbers: an integer, a list, a range or an array; negative numbers count from the last layer.
        attention_mask: 1 for tokens and 0 for padding, `(B, T)`; None if nothing is padded.

    Raises:
        SelfExplainError: a layer does not exist, no layer is given, or the embeddings are offloaded.
    """
    check_embeddings(model)
    model = private_copy(model)
    numbers = check_layers(layers, len(decoder_blocks(model)))
    with recording(model, numbers) as outputs:
        backbone(model)(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    device = outputs[numbers[0]].device  # blocks may be on several devices
    return torch.stack([outputs[layer].to(device) for layer in numbers])

"""Names of the vector inputs of an explainer, and checks of their values."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.tasks.question import PLACEHOLDER

if TYPE_CHECKING:
    from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor

VECTOR_INPUTS = ("activations", "activation_mask", "activation_layers", "activation_positions", "marker_positions")


def check_without_vectors(
    vectors: Mapping[str, Any], input_ids: Tensor | None, training: bool, processor: "SelfExplainerProcessor | None"
) -> None:
    """Check a batch without activations: no vectors may be missing.

    In training, the tokens must not spell a placeholder, because trainers that do not know this package tokenise the
    placeholders of ground-truth rows as text and drop the vectors. A batch with an empty `activation_mask`, `(B, 0)`,
    is known to have no vectors and is not checked.

    Args:
        vectors: the inputs named in `VECTOR_INPUTS`; `activations` is None.
        input_ids: token ids, `(B, T)`; None if embeddings were given.
        training: whether the batch is a step of training.
        processor: processor of the explainer, if it has one.

    Raises:
        SelfExplainError: vectors are missing.
    """
    given = [name for name in VECTOR_INPUTS[1:] if vectors[name] is not None]
    if given and any(vectors[name].numel() for name in given):
        raise SelfExplainError(
            f"{', '.join(given)} were given without activations. Give the activations, (B, K, d_target), or none of "
            "these inputs."
        )
    if given or not training or processor is None or input_ids is None or torch.compiler.is_compiling():
        return
    for row, text in enumerate(processor.tokenizer.batch_decode(input_ids)):
        if PLACEHOLDER in text:
            raise SelfExplainError(
                f"Row {row} of a training batch spells {PLACEHOLDER} and has no activations, so the explainer would be "
                "trained without vectors. Use SelfExplainerTrainer, or give your trainer data_collator="
                "SelfExplainerCollator(explainer.processor), or SelfExplainerPreferenceCollator for preference pairs, "
                "and remove_unused_columns=False."
            )


def check_vectors(
    vectors: Mapping[str, Any],
    shape: Sequence[int],
    d_target: int,
    layers: Sequence[int],
    context_length: int,
) -> None:
    """Check the vector inputs of one batch. This costs one transfer from the device, during the prefill only.

    Args:
        vectors: the inputs named in `VECTOR_INPUTS`; `activations` must not be None.
        shape: shape of the tokens, `(B, T)`.
        d_target: width of the vectors.
        layers: target layers that the explainer can read.
        context_length: maximum number of tokens.

    Raises:
        SelfExplainError: an input is invalid; the message names it and the expected value.
    """
    _check_shapes(vectors, shape, d_target, context_length)
    activations, markers = vectors["activations"], vectors["marker_positions"]
    mask, slot_layers, positions = (vectors[name] for name in VECTOR_INPUTS[1:4])
    readable = torch.tensor(list(layers), device=slot_layers.device)
    unreadable = mask & (slot_layers[..., None] != readable).all(-1)
    outside = mask & ((positions < 0) | (positions >= shape[1]))
    marker_outside = outside if markers is None else (markers >= shape[1]).any(-1) | (markers < -1).any(-1)
    infinite = mask & ~activations.isfinite().all(-1)
    invalid = torch.stack([unreadable, outside, marker_outside, infinite])  # (4, B, K)
    if invalid.any():
        problem, row, slot = invalid.nonzero()[0].tolist()
        messages = (
            f"layer {slot_layers[row, slot].item()} was given. This explainer reads layers {_format_layers(layers)}.",
            f"position {positions[row, slot].item()} was given. The row has tokens 0 to {shape[1] - 1}.",
            f"the position of a marker is outside of tokens 0 to {shape[1] - 1}.",
            "activations contain NaN or infinity. Give finite vectors.",
        )
        raise SelfExplainError(f"Row {row}, vector {slot}: {messages[problem]}")


def _check_shapes(vectors: Mapping[str, Any], shape: Sequence[int], d_target: int, context_length: int) -> None:
    """Check that all inputs are there and that their shapes fit together."""
    activations = vectors["activations"]
    if activations.ndim != 3 or activations.shape[0] != shape[0]:
        raise SelfExplainError(
            f"activations have shape {tuple(activations.shape)}. For {shape[0]} rows of tokens, expected "
            f"({shape[0]}, K, {d_target}). Use SelfExplainerProcessor to make them."
        )
    if activations.shape[-1] != d_target:
        raise SelfExplainError(
            f"activations have width {activations.shape[-1]}. This explainer reads vectors of width {d_target}, the "
            "width of its target's residual stream."
        )
    if shape[1] > context_length:
        raise SelfExplainError(f"{shape[1]} tokens were given. The context holds {context_length}. Shorten the text.")
    slots = tuple(activations.shape[:2])
    for name in VECTOR_INPUTS[1:4]:
        values = vectors[name]
        if values is None:
            raise SelfExplainError(f"{name} is missing. Give a tensor of shape {slots} together with the activations.")
        if tuple(values.shape) != slots:
            raise SelfExplainError(f"{name} has shape {tuple(values.shape)}, expected {slots}.")
    markers = vectors["marker_positions"]
    if markers is not None and tuple(markers.shape) != (*slots, 2):
        raise SelfExplainError(f"marker_positions has shape {tuple(markers.shape)}, expected {(*slots, 2)}.")


def check_neighbours(
    input_ids: Tensor, rows: Tensor, positions: Tensor, neighbour_ids: tuple[int, int], is_part: bool = False
) -> None:
    """Check that the tokens before and after each slot are those of the injection contract.

    Args:
        input_ids: token ids, `(B, T)`.
        rows: batch row of each slot, `(N,)`.
        positions: token position of each slot, `(N,)`.
        neighbour_ids: expected token ids before and after a slot.
        is_part: whether the tokens are a part of the prompt. Neighbours outside of it are then not checked.

    Raises:
        SelfExplainError: they differ, so the explainer would read a different prompt than in its training.
    """
    padded = torch.nn.functional.pad(input_ids, (1, 1), value=-1)  # (B, T + 2)
    actual = torch.stack([padded[rows, positions], padded[rows, positions + 2]], dim=-1)  # (N, 2)
    expected = torch.tensor(neighbour_ids, device=actual.device)
    different = ((actual != expected) & ~(is_part & (actual == -1))).any(-1)
    if different.any():
        first = different.nonzero()[0, 0]
        raise SelfExplainError(
            f"Row {rows[first].item()}: the tokens around a vector are {actual[first].tolist()}, but the injection "
            f"contract expects {list(neighbour_ids)}. Use the contract's template and the tokenizer it was written for."
        )


def _format_layers(layers: Sequence[int]) -> str:
    layers = list(layers)
    contiguous = layers == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]} to {layers[-1]}" if contiguous else ", ".join(map(str, layers))


def at_tokens(vectors: Mapping[str, Any], start: int, n_tokens: int) -> dict[str, Any]:
    """The vectors of `n_tokens` tokens from token `start` on, with positions that count from `start`.

    The effect of vectors at earlier tokens is in the cache. Vectors at later tokens come with these tokens.

    Args:
        vectors: the inputs named in `VECTOR_INPUTS`, with positions that count from the first token.
    """
    activation_mask, positions = vectors["activation_mask"], vectors["activation_positions"] - start
    inside = (positions >= 0) & (positions < n_tokens)
    part = {**vectors, "activation_mask": activation_mask & inside, "activation_positions": positions}
    markers = vectors.get("marker_positions")
    if markers is not None:
        shifted = markers - start
        present = (markers >= 0) & (shifted >= 0) & (shifted < n_tokens)
        part["marker_positions"] = torch.where(present, shifted, torch.full_like(shifted, -1))
    return part

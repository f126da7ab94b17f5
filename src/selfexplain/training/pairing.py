"""Collect pairs of activations from two models that read the same texts, to fit an adapter on."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from selfexplain.errors import SelfExplainError
from selfexplain.target.load import Target
from selfexplain.target.tokens import encode_with_spans

if TYPE_CHECKING:
    from torch import Tensor


def paired_activations(
    target: Target,
    base: Target,
    texts: Iterable[str],
    layers: Sequence[int],
    n_tokens: int,
    fit_to: Literal["layer", "embedding"] = "layer",
) -> tuple["Tensor", "Tensor"]:
    """Read the activations of the target and of the explainer's base at the same positions of the same texts.

    A position is a character at which a token of either model ends, so the tokenizers may differ.

    Args:
        target: model whose activations the adapter reads.
        base: base of the explainer.
        texts: texts to read, until there are enough tokens.
        layers: target layers.
        n_tokens: number of positions to collect.
        fit_to: activations of the base. "layer": its layer of the same relative depth. "embedding": its embedding of
            the token.

    Returns:
        `(n_layers, N, d_target)` and `(n_layers, N, d_base)`, on the CPU.

    Raises:
        SelfExplainError: no text has a position at which tokens of both models end.
    """
    import torch

    from selfexplain.target.capture import capture

    limit = min(target.context_length, base.context_length)
    pairs: list[tuple[Tensor, Tensor]] = []
    n_pairs = 0
    for text in texts:
        target_ids, target_ends = _tokenize(target, text, limit)
        base_ids, base_ends = _tokenize(base, text, limit)
        shared = sorted(set(target_ends) & set(base_ends))
        if shared:
            of_target = capture(target.model, target_ids, layers)[:, 0]
            of_base = _base_activations(base, base_ids, layers, target.n_layers, fit_to)
            pairs.append(
                (
                    of_target[:, [target_ends[end] for end in shared]].float().cpu(),
                    of_base[:, [base_ends[end] for end in shared]].float().cpu(),
                )
            )
            n_pairs += len(shared)
        if n_pairs >= n_tokens:
            break
    if not pairs:
        raise SelfExplainError(
            f"The corpus has no text in which a token of {target.name} and a token of {base.name} end at the same "
            "character, so the adapter cannot be fitted. Use a different corpus, or set adapter.fit_tokens=0."
        )
    all_target, all_base = (torch.cat(parts, dim=1) for parts in zip(*pairs, strict=True))
    return all_target, all_base


def _tokenize(model: Target, text: str, limit: int) -> tuple["Tensor", dict[int, int]]:
    """Token ids `(1, T)`, and end of each non-empty token in characters -> its index."""
    import torch

    ids, spans = encode_with_spans(model.tokenizer, text)
    ends = {end: index for index, (start, end) in enumerate(spans[:limit]) if end > start}
    return torch.tensor([ids[:limit]], device=model.model.device), ends


def _base_activations(
    base: Target, ids: "Tensor", layers: Sequence[int], n_target_layers: int, fit_to: Literal["layer", "embedding"]
) -> "Tensor":
    """Activations of the base, `(n_layers, T, d_base)`, that correspond to target layers `layers`."""
    from selfexplain.target.capture import capture

    if fit_to == "embedding":
        return base.model.get_input_embeddings()(ids).detach().expand(len(layers), -1, -1)
    depth = (base.n_layers - 1) / max(n_target_layers - 1, 1)
    return capture(base.model, ids, [round(layer * depth) for layer in layers])[:, 0]

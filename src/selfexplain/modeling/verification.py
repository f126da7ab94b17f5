"""Run the intervention that an explanation describes on the target, and compare the result with the explanation."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.features.chat_simulator import predict_each
from selfexplain.features.description import Description
from selfexplain.features.endpoint import Endpoint
from selfexplain.features.residuals import SINK_RATIO
from selfexplain.features.simulate import correlation, simulate
from selfexplain.features.windows import Exemplar
from selfexplain.modeling.explanation import Explanation, FeatureOnText, Verification
from selfexplain.target.ablation import answers, find_span, without_spans
from selfexplain.target.capture import Layers, capture, layer_numbers
from selfexplain.target.load import Target
from selfexplain.target.patching import Patch, run_patches
from selfexplain.target.tokens import token_text

MIN_CORRELATION = 0.3
"""Minimum correlation between predicted and true activations of a correct description."""

_HINT = re.compile(r"^Hint:.*$", re.MULTILINE)


def compare_outcome(explanation: Explanation, clean: str, actual: str, changed: bool) -> Verification:
    """Compare an explanation that states an outcome with the outcome of the intervention.

    Args:
        explanation: explanation with `changed` and `output`.
        clean: the target's output without the intervention.
        actual: the target's output after the intervention.
        changed: whether the intervention changed the output.
    """
    return Verification(
        agrees=(explanation.changed, explanation.output) == (changed, actual.strip()),
        clean_output=clean.strip(),
        actual_output=actual.strip(),
        actual_changed=changed,
    )


def without(text: str, remove: str | None, replacement: str = "") -> str:
    """Remove a part of a text, or its hint. A removed line takes its line break with it, a removed word one space.

    With a replacement, the text around the part stays as it is.

    Args:
        text: text to change.
        remove: exact part to remove; None for the line that begins with "Hint:".
        replacement: text to put in its place.

    Raises:
        SelfExplainError: the part does not occur, or occurs more than once, or there is no hint.
    """
    if remove is None:
        hint = _HINT.search(text)
        if hint is None:
            raise SelfExplainError(
                "No line of the text begins with 'Hint:'. Name the part to remove with the argument `remove`."
            )
        begin, end = hint.span()
    else:
        begin, end = find_span(text, remove)
    for separator in "" if replacement else "\n ":
        if text[:begin].endswith(separator) and (text[end:] or separator).startswith(separator):
            begin -= 1
            break
    return without_spans(text, [(begin, end)], replacement)


def run_patch(text: str, vector: Tensor, layers: Layers, position: int, target: Target) -> tuple[str, str, bool]:
    """Return the target's next token before and after a patch, and whether they differ.

    Args:
        text: text that the target reads.
        vector: vector `(d,)` that replaces the residual stream.
        layers: layers whose block outputs are replaced.
        position: token index.
        target: model to patch.
    """
    patch = Patch(0, tuple(layer_numbers(layers)), (position,), torch.as_tensor(vector).float().cpu()[None])
    results = run_patches(target, [target.encode(text)], [patch])
    clean, actual = int(results.clean_ids[0]), int(results.ids[0])
    return token_text(target.tokenizer, clean), token_text(target.tokenizer, actual), clean != actual


def run_ablation(
    text: str, remove: str | None, replacement: str, choices: Sequence[str], target: Target
) -> tuple[str, str, bool]:
    """Return the target's answer to a text before and after the removal of a part, and whether they differ.

    Args:
        text: text that the target reads.
        remove: part to remove; see `without`.
        replacement: text to put in its place.
        choices: possible answers, of which the most likely is taken; empty for the next token.
        target: model to ask.
    """
    texts = [text, without(text, remove, replacement)]
    by: Literal["next_token", "likelihood"] = "likelihood" if choices else "next_token"
    clean, actual = answers(target, texts, [choices] * 2, by)
    return clean.output, actual.output, clean.output.strip() != actual.output.strip()


def check_description(
    description: str,
    vector: Tensor,
    layer: int,
    target: Target,
    texts: Sequence[str],
    classes: Mapping[str, set[str]],
    simulator: Endpoint | None,
) -> Verification:
    """Compare the activations that a description predicts with the feature's activations on some texts.

    Args:
        description: description of the feature.
        vector: direction of the feature, `(d,)`.
        layer: target layer of the direction.
        target: model that reads the texts.
        texts: texts to compare on.
        classes: names of token classes that the description may use -> their tokens.
        simulator: chat model for descriptions in free text; None for the offline grammar only.
    """
    tokens, actual = _activations(vector, layer, target, texts)
    predicted = _predict(description, tokens, classes, simulator)
    readable = [index for index, values in enumerate(predicted) if values is not None]
    exemplars: list[Exemplar] = [{"tokens": tokens[index], "activations": actual[index]} for index in readable]
    value = correlation([values for values in predicted if values is not None], exemplars).value if readable else None
    return Verification(
        agrees=None if value is None else value >= MIN_CORRELATION,
        correlation=value,
        texts=tuple(
            FeatureOnText(tuple(names), tuple(true.tolist()), None if values is None else tuple(values.tolist()))
            for names, true, values in zip(tokens, actual, predicted, strict=True)
        ),
    )


def _activations(
    vector: Tensor, layer: int, target: Target, texts: Sequence[str]
) -> tuple[list[list[str]], list[NDArray[np.float32]]]:
    """Tokens of each text and projections of the residual stream on a direction, without special tokens and sinks."""
    direction = torch.nn.functional.normalize(torch.as_tensor(vector).float(), dim=0)
    special = torch.tensor(target.tokenizer.all_special_ids)
    tokens, projections = [], []
    for text in texts:
        ids = torch.tensor([target.encode(text)])
        hidden = capture(target.model, ids.to(target.model.device), layer)[0, 0].float().cpu()  # (T, d)
        norms = hidden.norm(dim=-1)
        kept = (~torch.isin(ids[0], special) & (norms <= SINK_RATIO * norms.median())).nonzero()[:, 0]
        tokens.append([token_text(target.tokenizer, token) for token in ids[0, kept].tolist()])
        projections.append((hidden[kept] @ direction.cpu()).numpy())
    return tokens, projections


def _predict(
    description: str, texts: Sequence[Sequence[str]], classes: Mapping[str, set[str]], simulator: Endpoint | None
) -> list[NDArray[np.float64] | None]:
    """Activations that a description predicts on each text's tokens; None for a text on which it could not be read."""
    if simulator is not None:
        return predict_each(simulator, [(description, tokens) for tokens in texts])
    parsed = Description.parse(description, classes)
    return [simulate(parsed, tokens) if parsed else None for tokens in texts]

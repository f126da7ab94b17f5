"""Do to the target what an explanation is about, and see whether it is right."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from selfexplain.errors import SelfExplainError
from selfexplain.features.describers.chat_model import predict_each
from selfexplain.features.description import Description
from selfexplain.features.endpoint import Endpoint
from selfexplain.features.residuals import SINK_RATIO
from selfexplain.features.simulate import correlation, simulate
from selfexplain.features.windows import Exemplar
from selfexplain.modeling.explanation import (
    AblationQuery,
    Explanation,
    FeatureOnText,
    FeatureQuery,
    PatchQuery,
    Verification,
)
from selfexplain.target.ablation import answers, find_span, without_spans
from selfexplain.target.capture import capture
from selfexplain.target.load import Target
from selfexplain.target.patching import Patch, run_patches

AGREES_FROM = 0.3  # correlation of a description's predictions with the activations
_HINT = re.compile(r"^Hint:.*$", re.MULTILINE)


def verify(
    explanation: Explanation,
    target: Target,
    texts: Sequence[str] | None,
    classes: Mapping[str, set[str]],
    simulator: Endpoint | None,
) -> Verification:
    """See `SelfExplainerForCausalLM.verify`."""
    query = explanation.query
    if isinstance(query, FeatureQuery):
        return _feature(query, explanation.text, target, texts, classes, simulator)
    if query is None:
        raise SelfExplainError("a free question has no intervention that could be run: read the answer yourself.")
    clean, actual, changed = _patched(query, target) if isinstance(query, PatchQuery) else _ablated(query, target)
    return Verification(
        agrees=(explanation.changed, explanation.output) == (changed, actual.strip()),
        clean_output=clean.strip(),
        actual_output=actual.strip(),
        actual_changed=changed,
    )


def without(text: str, remove: str | None, replacement: str = "") -> str:
    """`text` without `remove`, or without its hint; a line that is gone takes its line break along, a word its space.

    With a replacement in its place all around stays as it is.

    Raises:
        SelfExplainError: it does not occur, or more than once, or there is no hint.
    """
    if remove is None:
        hint = _HINT.search(text)
        if hint is None:
            raise SelfExplainError("no line of the text begins with 'Hint:': name the part to take out with remove=.")
        begin, end = hint.span()
    else:
        begin, end = find_span(text, remove)
    for separator in "" if replacement else "\n ":
        if text[:begin].endswith(separator) and (text[end:] or separator).startswith(separator):
            begin -= 1
            break
    return without_spans(text, [(begin, end)], replacement)


def _patched(query: PatchQuery, target: Target) -> tuple[str, str, bool]:
    """The target's next token before and after the patch, and whether it is another one."""
    vectors = torch.as_tensor(query.vector).float().cpu()[None]
    patch = Patch(0, tuple(query.layers), (query.position,), vectors)
    found = run_patches(target, [target.encode(query.text)], [patch])
    clean, actual = int(found.clean_ids[0]), int(found.ids[0])
    return target.tokenizer.decode([clean]), target.tokenizer.decode([actual]), clean != actual


def _ablated(query: AblationQuery, target: Target) -> tuple[str, str, bool]:
    """The target's answer to the text and to what is left of it, and whether it is another one."""
    texts = [query.text, without(query.text, query.remove, query.replacement)]
    by: Literal["next_token", "likelihood"] = "likelihood" if query.choices else "next_token"
    clean, actual = answers(target, texts, [query.choices] * 2, by)
    return clean.output, actual.output, clean.output.strip() != actual.output.strip()


def _feature(
    query: FeatureQuery,
    description: str,
    target: Target,
    texts: Sequence[str] | None,
    classes: Mapping[str, set[str]],
    simulator: Endpoint | None,
) -> Verification:
    """Hold a description against the projections of the residual stream, special tokens aside."""
    if not texts:
        raise SelfExplainError("give texts=[...], some sentences on which the feature's description is checked.")
    direction = torch.nn.functional.normalize(torch.as_tensor(query.vector).float(), dim=0)
    special = torch.tensor(target.tokenizer.all_special_ids)
    tokens, actual = [], []
    for text in texts:
        ids = torch.tensor([target.encode(text)])
        hidden = capture(target.model, ids.to(target.model.device), [query.layer])[0, 0].float().cpu()  # (T, d)
        norms = hidden.norm(dim=-1)
        kept = (~torch.isin(ids[0], special) & (norms <= SINK_RATIO * norms.median())).nonzero()[:, 0]
        tokens.append([target.tokenizer.decode([token]) for token in ids[0, kept].tolist()])
        actual.append((hidden[kept] @ direction.cpu()).numpy())
    predicted = _predicted(description, tokens, classes, simulator)
    read = [index for index, one in enumerate(predicted) if one is not None]
    exemplars: list[Exemplar] = [{"tokens": tokens[index], "activations": actual[index]} for index in read]
    value = correlation([one for one in predicted if one is not None], exemplars).value if read else None
    return Verification(
        agrees=None if value is None else value >= AGREES_FROM,
        correlation=value,
        texts=tuple(
            FeatureOnText(tuple(on), tuple(really.tolist()), None if said is None else tuple(said.tolist()))
            for on, really, said in zip(tokens, actual, predicted, strict=True)
        ),
    )


def _predicted(
    description: str, texts: Sequence[Sequence[str]], classes: Mapping[str, set[str]], simulator: Endpoint | None
) -> list[NDArray[np.float64] | None]:
    """Activations that the description foretells on each text's tokens; None where nobody could read it."""
    if simulator is not None:
        return predict_each(simulator, [(description, tokens) for tokens in texts])
    parsed = Description.parse(description, classes)
    return [simulate(parsed, tokens) if parsed else None for tokens in texts]

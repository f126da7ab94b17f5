"""Word free questions about vectors, in the prompt template of an explainer's contract."""

from collections.abc import Sequence
from itertools import groupby

from selfexplain.errors import SelfExplainError
from selfexplain.tasks import feature_description
from selfexplain.tasks.question import PLACEHOLDER, Question

PLAIN = "At layer {layer}, {activation}. {question}\n"
"""Template for explainers whose contract has none."""


def question(text: str | None, layers: Sequence[int], template: str | None = None) -> Question:
    """Ask about one vector per entry of `layers`, in this order.

    If a template contains `{activation}` twice, every vector is written twice.

    Args:
        text: the question; None for the question that the template contains.
        layers: layer of each vector. Equal consecutive layers share one copy of the part of the template before
            `{question}`, with their vectors next to each other.
        template: text with `{layer}`, `{activation}` and `{question}`; None for a plain wording.

    Raises:
        SelfExplainError: the template has no place for the vectors, or no place for the question.
    """
    template = template or (feature_description.TEMPLATES[0] if text is None else PLAIN)
    head, slot, tail = template.partition("{question}")
    if "{activation}" not in head:
        raise SelfExplainError(
            f"The template {template!r} has no {{activation}} before {{question}}. "
            "Add one, because that is where the vectors are written."
        )
    if text is not None and not slot:
        raise SelfExplainError(
            f"A question was passed, but the template {template!r} of this explainer has no place for a question. "
            "Call ask(None, vectors, layers) to use the question of the template."
        )
    prompt, n_done = "", 0
    offsets: list[int] = []
    spans: list[tuple[int, int]] = []
    vectors: list[int] = []
    for layer, group in groupby(layers):
        n_vectors, begin = len(list(group)), len(prompt)
        for index, part in enumerate(head.replace("{layer}", str(layer)).split("{activation}")):
            if index:
                offsets += [len(prompt) + n * len(PLACEHOLDER) for n in range(n_vectors)]
                vectors += range(n_done, n_done + n_vectors)
                prompt += PLACEHOLDER * n_vectors
            prompt += part
        spans.append((begin, len(prompt)))
        n_done += n_vectors
    prompt += text or ""
    spans.append((len(prompt), len(prompt) + len(tail)))
    return Question(prompt + tail, tuple(offsets), tuple(spans), tuple(vectors))

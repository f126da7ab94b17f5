"""Represent a question: text with marked places for activation vectors."""

import re
from dataclasses import dataclass

_FIELD = re.compile(r"\{(\w+)\}")

PLACEHOLDER = "<activation>"


@dataclass(frozen=True)
class Question:
    """A question to an explainer.

    Attributes:
        prompt: the text, with `<activation>` at every place for a vector.
        placeholder_offsets: character offsets of these places. The same string elsewhere in the prompt is plain text.
        template_spans: character spans in which the spelling of a control token is encoded as that token, such as the
            turns of a chat in the template of a contract. Everywhere else it is encoded as plain text.
        vectors: index of the vector for each place; None if the vectors are used in order.
    """

    prompt: str
    placeholder_offsets: tuple[int, ...] = ()
    template_spans: tuple[tuple[int, int], ...] = ()
    vectors: tuple[int, ...] | None = None


def fill(template: str, **fields: str) -> Question:
    """Fill a template with `fields`. Each `{activation}` in the template becomes a place for a vector.

    Other text in braces stays as it is.

    The offsets are recorded while the text is assembled, so `<activation>` inside a field remains plain text.
    """
    prompt, offsets = "", []
    for index, part in enumerate(template.split("{activation}")):
        if index:
            offsets.append(len(prompt))
            prompt += PLACEHOLDER
        prompt += _FIELD.sub(lambda match: fields.get(match[1], match[0]), part)
    return Question(prompt, tuple(offsets))

"""Write descriptions of features with a chat model.

The method follows Bills et al., "Language models can explain neurons in language models" (2023), and Paulo et al.,
"Automatically Interpreting Millions of Features in Large Language Models" (arXiv 2410.13928).
"""

import json
import re
from collections.abc import Sequence

from selfexplain.features.endpoint import Endpoint, Request
from selfexplain.features.highlights import active_windows, highlighted_text, highlights, levels
from selfexplain.features.windows import Exemplar

MAX_DESCRIPTION = 300  # characters; a longer reply is rejected
MAX_REPLY = 100  # tokens

DESCRIBE = """You study one feature of a language model. You are given text excerpts. Tokens that activate the feature \
are between << and >>. Below each excerpt, these tokens are listed with the strength of their activation, from 1 to \
10. Find out what they have in common: the tokens themselves, the text before them, or the topic of the text.
Reply with one line of at most 20 words, in this form:
DESCRIPTION: what activates the feature"""


def describe_request(exemplars: Sequence[Exemplar], sample: int = 0) -> Request:
    """Ask for a description of what activates a feature, given its active windows.

    Args:
        sample: 0 for the most likely reply, another number for a sampled one.
    """
    blocks: list[str] = []
    for exemplar, level, active in zip(exemplars, levels(exemplars), active_windows(exemplars), strict=True):
        if active:
            highlighted = highlights(exemplar)
            activations = [
                f"({json.dumps(token, ensure_ascii=False)}, {strength})"
                for token, strength, mark in zip(exemplar["tokens"], level.tolist(), highlighted.tolist(), strict=True)
                if mark
            ]
            text = highlighted_text(exemplar["tokens"], highlighted)
            blocks.append(f"Excerpt {len(blocks) + 1}: {text}\nActivations: {', '.join(activations)}")
    return Request(DESCRIBE, "\n\n".join(blocks), MAX_REPLY, temperature=1.0 if sample else 0.0, sample=sample)


def parse_description(reply: str) -> str | None:
    """The text after the last "DESCRIPTION:", without surrounding emphasis or quotation marks.

    None if there is no such text, or if it is longer than `MAX_DESCRIPTION`.
    """
    matches = re.findall(r"^[\s*_#>-]*DESCRIPTION\s*[*_]*:[\s*_]*(.+)$", reply, re.MULTILINE | re.IGNORECASE)
    text = " ".join(matches[-1].strip("*_`\"' \t").split()) if matches else ""
    return text if 0 < len(text) <= MAX_DESCRIPTION else None


def describe_all(endpoint: Endpoint, requests: Sequence[Request]) -> list[str | None]:
    """One description per request; None if the endpoint failed or the reply contains no description."""
    replies = endpoint.ask(requests, "describing features", [parse_description] * len(requests))
    return [None if reply is None else parse_description(reply) for reply in replies]

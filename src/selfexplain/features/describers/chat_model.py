"""Descriptions by a chat model, and a chat model as the one who simulates or recognises what they describe.

After Bills et al., "Language models can explain neurons in language models" (2023), and Paulo et al., "Automatically
Interpreting Millions of Features in Large Language Models" (arXiv 2410.13928). A reply that cannot be read is None and
counts as a failure; it is never taken for an answer.
"""

import json
import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from selfexplain.features.endpoint import Endpoint, Request
from selfexplain.features.simulate import (
    Fuzzed,
    Score,
    active_windows,
    balanced_accuracy,
    correlation,
    fuzz,
    highlights,
)
from selfexplain.features.windows import Exemplar

T = TypeVar("T")

MAX_LEVEL = 10  # activations are told and foretold as whole numbers from 0 to this
JUDGED_AT_ONCE = 5  # windows a request
MAX_DESCRIPTION = 300  # characters; a longer one is an essay

DESCRIBE = """You study one feature of a language model. You get excerpts of text in which tokens that activate the \
feature stand between << and >>; below each, those tokens with the strength of their activation, from 1 to 10. \
Find what they have in common: the tokens themselves, what comes before them, or what the text is about.
Reply with one line, at most 20 words, in this form:
DESCRIPTION: what activates the feature"""
SIMULATE = """You get the description of a feature of a language model, and the numbered tokens of an excerpt. \
Foretell how strongly the feature is active on each token, from 0 (not at all) to 10. Most tokens are at 0.
Reply with one JSON object from token number to strength, without the tokens at 0, such as {"3": 8, "4": 2}. \
If no token is active, reply with {}."""
DETECT = """You get the description of a feature of a language model, and numbered excerpts. For each excerpt, decide \
whether the feature is active anywhere in it.
Reply with one JSON list of 1 (active) or 0 (not active), one number an excerpt, in order, such as [1, 0, 0]."""
FUZZ = """You get the description of a feature of a language model, and numbered excerpts in which some tokens stand \
between << and >>. For each excerpt, decide whether those are the tokens that activate the feature.
Reply with one JSON list of 1 (they are) or 0 (they are not), one number an excerpt, in order, such as [1, 0, 0]."""


def highlighted_text(tokens: Sequence[str], marked: NDArray[np.bool_]) -> str:
    """The text with each run of marked tokens between << and >>."""
    pieces, inside = [], False
    for token, mark in zip(tokens, marked.tolist(), strict=True):
        if mark != inside:
            pieces.append("<<" if mark else ">>")
        pieces.append(token)
        inside = mark
    return "".join(pieces) + ">>" * inside


def levels(exemplars: Sequence[Exemplar]) -> list[NDArray[np.int64]]:
    """Activations as whole numbers from 0 to `MAX_LEVEL`, the strongest of all windows being the latter."""
    peak = max((float(np.max(exemplar["activations"], initial=0.0)) for exemplar in exemplars), default=0.0) or 1.0
    return [
        np.ceil(np.asarray(exemplar["activations"]) / peak * MAX_LEVEL).clip(0, MAX_LEVEL).astype(np.int64)
        for exemplar in exemplars
    ]


def describe_request(exemplars: Sequence[Exemplar], sample: int = 0) -> Request:
    """Ask for a description of what activates a feature in its active windows; samples after the first are drawn."""
    blocks: list[str] = []
    for exemplar, level, active in zip(exemplars, levels(exemplars), active_windows(exemplars), strict=True):
        if active:
            marked = highlights(exemplar)
            told = [
                f"({json.dumps(token, ensure_ascii=False)}, {strength})"
                for token, strength, mark in zip(exemplar["tokens"], level.tolist(), marked.tolist(), strict=True)
                if mark
            ]
            text = highlighted_text(exemplar["tokens"], marked)
            blocks.append(f"Excerpt {len(blocks) + 1}: {text}\nActivations: {', '.join(told)}")
    return Request(DESCRIBE, "\n\n".join(blocks), 100, temperature=1.0 if sample else 0.0, sample=sample)


def parse_description(reply: str) -> str | None:
    """The text after the last DESCRIPTION:, without marks of emphasis or quotation around it."""
    found = re.findall(r"^[\s*_#>-]*DESCRIPTION\s*[*_]*:[\s*_]*(.+)$", reply, re.MULTILINE | re.IGNORECASE)
    text = " ".join(found[-1].strip("*_`\"' \t").split()) if found else ""
    return text if 0 < len(text) <= MAX_DESCRIPTION else None


def simulate_request(description: str, tokens: Sequence[str]) -> Request:
    """Ask how strongly each token activates what is described."""
    lines = [f"{number}: {json.dumps(token, ensure_ascii=False)}" for number, token in enumerate(tokens, 1)]
    return Request(SIMULATE, f"Description: {description}\n\nTokens:\n" + "\n".join(lines), 16 + 8 * len(tokens))


def parse_simulation(reply: str, n_tokens: int) -> NDArray[np.float64] | None:
    """Foretold strengths, `(n_tokens,)`; None for anything but numbers of tokens and strengths within their ranges."""
    value = _last_json(reply, "{", "}")
    if not isinstance(value, dict):
        return None
    predicted = np.zeros(n_tokens)
    for number, strength in value.items():
        known = number.isdecimal() and 1 <= int(number) <= n_tokens
        if not known or isinstance(strength, bool) or not isinstance(strength, int | float):
            return None
        if not 0 <= strength <= MAX_LEVEL:
            return None
        predicted[int(number) - 1] = strength
    return predicted


def judge_request(system: str, description: str, texts: Sequence[str]) -> Request:
    """Ask for a yes or no on each of a few texts; `system` is `DETECT` or `FUZZ`."""
    lines = [f"Excerpt {number}: {text}" for number, text in enumerate(texts, 1)]
    return Request(system, f"Description: {description}\n\n" + "\n\n".join(lines), 8 + 4 * len(texts))


def parse_judgement(reply: str, n_texts: int) -> list[bool] | None:
    """One answer a text; None for anything but a list of as many zeros and ones."""
    value = _last_json(reply, "[", "]")
    if not isinstance(value, list) or len(value) != n_texts or not all(item in (0, 1) for item in value):
        return None
    return [item == 1 for item in value]


def _last_json(reply: str, begin: str, end: str) -> object:
    """The last flat JSON object or list of a reply."""
    found = re.findall(rf"\{begin}[^\{begin}\{end}]*\{end}", reply)
    try:
        return json.loads(found[-1]) if found else None
    except ValueError:
        return None


def describe_all(endpoint: Endpoint, requests: Sequence[Request]) -> list[str | None]:
    """One description a request; None where the endpoint failed or the reply holds none."""
    replies = endpoint.ask(requests, "describing features")
    return [None if reply is None else parse_description(reply) for reply in replies]


def predict_each(endpoint: Endpoint, asked: Sequence[tuple[str, Sequence[str]]]) -> list[NDArray[np.float64] | None]:
    """Foretold strengths `(n_tokens,)` for each (description, tokens); None where there was no readable reply."""
    replies = endpoint.ask([simulate_request(*one) for one in asked], "simulating features")
    return [
        None if reply is None else parse_simulation(reply, len(tokens))
        for reply, (_, tokens) in zip(replies, asked, strict=True)
    ]


def simulate_all(endpoint: Endpoint, pairs: Sequence[tuple[str, Sequence[Exemplar]]]) -> tuple[list[Score | None], int]:
    """Simulator score of each (description, exemplars), and how many windows in all had no readable reply."""
    return _summed(simulate_each(endpoint, pairs))


def simulate_each(
    endpoint: Endpoint, pairs: Sequence[tuple[str, Sequence[Exemplar]]]
) -> list[tuple[Score | None, int]]:
    """Simulator score of each (description, exemplars), and how many of its windows had no readable reply.

    Such windows are left out of the correlation; None where there is no other.
    """
    asked = [(text, exemplar["tokens"]) for text, exemplars in pairs for exemplar in exemplars]
    predictions = iter(predict_each(endpoint, asked))
    found: list[tuple[Score | None, int]] = []
    for _, exemplars in pairs:
        read = [(p, exemplar) for exemplar in exemplars if (p := next(predictions)) is not None]
        score = correlation([p for p, _ in read], [exemplar for _, exemplar in read]) if read else None
        found.append((score, len(exemplars) - len(read)))
    return found


def detect_all(
    endpoint: Endpoint, pairs: Sequence[tuple[str, Sequence[Exemplar]]], seed: int
) -> tuple[list[float | None], int]:
    """Balanced accuracy of telling active windows from inactive ones, and how many windows in all had no readable
    reply."""
    return _summed(detect_each(endpoint, pairs, seed))


def detect_each(
    endpoint: Endpoint, pairs: Sequence[tuple[str, Sequence[Exemplar]]], seed: int
) -> list[tuple[float | None, int]]:
    """The same of each (description, exemplars); None where nothing was read, or all that was is of one kind."""
    cases = [
        (
            text,
            [("".join(e["tokens"]), bool(active)) for e, active in zip(windows, active_windows(windows), strict=True)],
        )
        for text, windows in pairs
    ]
    return _judge_each(endpoint, DETECT, cases, seed, "detecting features")


def fuzz_all(
    endpoint: Endpoint, pairs: Sequence[tuple[str, Sequence[Exemplar]]], seed: int
) -> tuple[list[float | None], int]:
    """Balanced accuracy of telling right from wrong highlights, and how many windows in all had no readable reply."""

    def case(window: Fuzzed) -> tuple[str, bool]:
        return highlighted_text(window.tokens, window.highlighted), window.right

    cases = [(text, list(map(case, fuzz(windows, seed)))) for text, windows in pairs]
    return _summed(_judge_each(endpoint, FUZZ, cases, seed, "fuzzing features"))


def _judge_each(
    endpoint: Endpoint, system: str, cases: Sequence[tuple[str, list[tuple[str, bool]]]], seed: int, desc: str
) -> list[tuple[float | None, int]]:
    """`cases`: per description, texts and whether they are of it; shuffled, so that order tells nothing.

    The order depends on the number of texts alone, so that whoever asks about a case again asks the same.
    """
    shuffled = [
        (text, [windows[i] for i in np.random.default_rng(seed).permutation(len(windows))]) for text, windows in cases
    ]
    batches = [
        (number, windows[start : start + JUDGED_AT_ONCE])
        for number, (_, windows) in enumerate(shuffled)
        for start in range(0, len(windows), JUDGED_AT_ONCE)
    ]
    requests = [judge_request(system, cases[number][0], [text for text, _ in batch]) for number, batch in batches]
    predicted: list[list[bool]] = [[] for _ in cases]
    actual: list[list[bool]] = [[] for _ in cases]
    n_failed = [0] * len(cases)
    for (number, batch), reply in zip(batches, endpoint.ask(requests, desc), strict=True):
        answers = None if reply is None else parse_judgement(reply, len(batch))
        if answers is None:
            n_failed[number] += len(batch)
        else:
            predicted[number] += answers
            actual[number] += [truth for _, truth in batch]
    values = [balanced_accuracy(*both) if both[0] else None for both in zip(predicted, actual, strict=True)]
    return list(zip(values, n_failed, strict=True))


def _summed(found: Sequence[tuple[T, int]]) -> tuple[list[T], int]:
    return [value for value, _ in found], sum(n_failed for _, n_failed in found)

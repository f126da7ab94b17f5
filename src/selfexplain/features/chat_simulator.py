"""Score descriptions with a chat model that simulates activations or judges excerpts.

The method follows Bills et al., "Language models can explain neurons in language models" (2023), and Paulo et al.,
"Automatically Interpreting Millions of Features in Large Language Models" (arXiv 2410.13928). A reply that cannot be
parsed counts as a failure and never as an answer.
"""

import json
import re
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from selfexplain.features.endpoint import Endpoint, Request
from selfexplain.features.highlights import MAX_LEVEL, active_windows, highlighted_text
from selfexplain.features.simulate import SimulatorScore, balanced_accuracy, correlation, fuzz
from selfexplain.features.windows import Exemplar

T = TypeVar("T")

JUDGED_AT_ONCE = 5  # windows per request

SIMULATE = """You are given the description of a feature of a language model, and the numbered tokens of an excerpt. \
Predict how strongly the feature is active on each token, from 0 (not at all) to 10. Most tokens are at 0.
Reply with one JSON object that maps token numbers to strengths. Leave out tokens at 0. Example: {"3": 8, "4": 2}. \
If no token is active, reply with {}."""
DETECT = """You are given the description of a feature of a language model, and numbered excerpts. For each excerpt, \
decide whether the feature is active anywhere in it.
Reply with one JSON list that has one number per excerpt, in order: 1 (active) or 0 (not active). Example: [1, 0, 0]."""
FUZZ = """You are given the description of a feature of a language model, and numbered excerpts in which some tokens \
are between << and >>. For each excerpt, decide whether these are the tokens that activate the feature.
Reply with one JSON list that has one number per excerpt, in order: 1 (they are) or 0 (they are not). Example: \
[1, 0, 0]."""


def simulate_request(description: str, tokens: Sequence[str]) -> Request:
    """Ask how strongly a feature with this description is active on each token."""
    lines = [f"{number}: {json.dumps(token, ensure_ascii=False)}" for number, token in enumerate(tokens, 1)]
    return Request(SIMULATE, f"Description: {description}\n\nTokens:\n" + "\n".join(lines), 16 + 8 * len(tokens))


def parse_simulation(reply: str, n_tokens: int) -> NDArray[np.float64] | None:
    """Predicted strengths, `(n_tokens,)`; None unless the reply maps valid token numbers to valid strengths."""
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
    """Ask for a yes or no on each of a few texts.

    Args:
        system: `DETECT` or `FUZZ`.
    """
    lines = [f"Excerpt {number}: {text}" for number, text in enumerate(texts, 1)]
    return Request(system, f"Description: {description}\n\n" + "\n\n".join(lines), 8 + 4 * len(texts))


def parse_judgement(reply: str, n_texts: int) -> list[bool] | None:
    """One answer per text; None unless the reply contains a list of `n_texts` zeros and ones."""
    value = _last_json(reply, "[", "]")
    if not isinstance(value, list) or len(value) != n_texts or not all(item in (0, 1) for item in value):
        return None
    return [bool(item) for item in value]


def _last_json(reply: str, begin: str, end: str) -> object:
    """The last JSON object or list of a reply that contains no other object or list; None if there is none."""
    matches = re.findall(rf"\{begin}[^\{begin}\{end}]*\{end}", reply)
    try:
        return json.loads(matches[-1]) if matches else None
    except ValueError:
        return None


def predict_each(
    endpoint: Endpoint, questions: Sequence[tuple[str, Sequence[str]]]
) -> list[NDArray[np.float64] | None]:
    """Predicted strengths `(n_tokens,)` for each (description, tokens); None without a valid reply."""
    parsers = [partial(parse_simulation, n_tokens=len(tokens)) for _, tokens in questions]
    replies = endpoint.ask([simulate_request(*question) for question in questions], "simulating features", parsers)
    return [None if reply is None else parse(reply) for reply, parse in zip(replies, parsers, strict=True)]


def simulate_all(
    endpoint: Endpoint, pairs: Sequence[tuple[str, Sequence[Exemplar]]]
) -> tuple[list[SimulatorScore | None], int]:
    """The simulator score of each (description, exemplars), and the total number of windows without a valid reply."""
    return _with_total(simulate_each(endpoint, pairs))


def simulate_each(
    endpoint: Endpoint, pairs: Sequence[tuple[str, Sequence[Exemplar]]]
) -> list[tuple[SimulatorScore | None, int]]:
    """The simulator score of each (description, exemplars), and its number of windows without a valid reply.

    Such windows are left out of the correlation. The score is None if no window has a valid reply.
    """
    questions = [(text, exemplar["tokens"]) for text, exemplars in pairs for exemplar in exemplars]
    predictions = iter(predict_each(endpoint, questions))
    results: list[tuple[SimulatorScore | None, int]] = []
    for _, exemplars in pairs:
        valid = [(p, exemplar) for exemplar in exemplars if (p := next(predictions)) is not None]
        score = correlation([p for p, _ in valid], [exemplar for _, exemplar in valid]) if valid else None
        results.append((score, len(exemplars) - len(valid)))
    return results


def detect_all(
    endpoint: Endpoint, pairs: Sequence[tuple[str, Sequence[Exemplar]]], seed: int
) -> tuple[list[float | None], int]:
    """The detection accuracy of each (description, exemplars), and the total number of windows without a valid reply.

    Detection accuracy is the balanced accuracy of predicting which windows are active.
    """
    return _with_total(detect_each(endpoint, pairs, seed))


def detect_each(
    endpoint: Endpoint, pairs: Sequence[tuple[str, Sequence[Exemplar]]], seed: int
) -> list[tuple[float | None, int]]:
    """The detection accuracy of each (description, exemplars), and its number of windows without a valid reply.

    The accuracy is None if the windows with a valid reply belong to fewer than two classes.
    """
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
    """The fuzzing accuracy of each (description, exemplars), and the total number of windows without a valid reply.

    Fuzzing accuracy is the balanced accuracy of separating correctly from incorrectly highlighted windows.
    """
    cases = [
        (text, [(highlighted_text(w.tokens, w.highlighted), w.correct) for w in fuzz(windows, seed)])
        for text, windows in pairs
    ]
    return _with_total(_judge_each(endpoint, FUZZ, cases, seed, "fuzzing features"))


def _judge_each(
    endpoint: Endpoint, system: str, cases: Sequence[tuple[str, list[tuple[str, bool]]]], seed: int, desc: str
) -> list[tuple[float | None, int]]:
    """The balanced accuracy of each case, and its number of texts without a valid reply.

    Texts are shuffled, so that their order gives nothing away. The order depends only on the number of texts, so the
    requests of a case are the same each time and hit the cache.

    Args:
        cases: a description, and texts with their true answers, for each case.
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
    parsers = [partial(parse_judgement, n_texts=len(batch)) for _, batch in batches]
    replies = endpoint.ask(requests, desc, parsers)
    for (number, batch), reply, parse in zip(batches, replies, parsers, strict=True):
        answers = None if reply is None else parse(reply)
        if answers is None:
            n_failed[number] += len(batch)
        else:
            predicted[number] += answers
            actual[number] += [truth for _, truth in batch]
    accuracies = [balanced_accuracy(*both) if both[0] else None for both in zip(predicted, actual, strict=True)]
    return list(zip(accuracies, n_failed, strict=True))


def _with_total(results: Sequence[tuple[T, int]]) -> tuple[list[T], int]:
    """The values of (value, number of failures) pairs, and the total number of failures."""
    return [value for value, _ in results], sum(n_failed for _, n_failed in results)

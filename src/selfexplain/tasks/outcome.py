"""Write and parse the answers of tasks that ask how an intervention changes the output.

The two sentences come from Li et al., "Training Language Models to Explain Their Own Computations"
(arXiv 2511.08579).
"""

import re
from dataclasses import dataclass

OUTCOME_METRICS = ("exact_match", "has_changed_macro_f1", "content_match")
"""Metrics of the tasks whose answers state an outcome."""

_CHANGED = "The most likely output would change to <<<{}>>>."
_UNCHANGED = "The output would remain unchanged from <<<{}>>>."
_ANSWER = re.compile(
    r"\s*The (?:most likely output would (change) to|output would remain unchanged from) <<<((?:(?!<<<).)*?)>>>",
    re.DOTALL,
)
_VERDICT = len("The ")  # offset of the first character in which the two sentences differ


@dataclass(frozen=True)
class Outcome:
    """The effect of an intervention.

    Attributes:
        changed: whether the output changes.
        output: the output after the intervention. Parsing strips surrounding spaces.
    """

    changed: bool
    output: str


def render(outcome: Outcome) -> str:
    """The sentence that states an outcome; explainers are trained on it."""
    return (_CHANGED if outcome.changed else _UNCHANGED).format(outcome.output)


def parse(text: str) -> Outcome | None:
    """The outcome that a text states at its beginning; None if it states no outcome."""
    match = _ANSWER.match(text)
    return Outcome(match[1] is not None, match[2].strip()) if match else None


def is_statable(output: str) -> bool:
    """Whether a sentence can state this output. It cannot if the output contains the quotation marks `<<<` or `>>>`."""
    return parse(render(Outcome(True, output))) == Outcome(True, output.strip())


def claim_spans(text: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The two `(begin, end)` character spans that carry the claim of a sentence; None if it states no outcome.

    The first span is the character in which the two sentences differ. The second span is the output and the first
    character of its closing mark. Everything else in the sentence is determined by these two spans.
    """
    match = _ANSWER.match(text)
    if match is None:
        return None
    verdict = match.start() + len(match[0]) - len(match[0].lstrip()) + _VERDICT
    return (verdict, verdict + 1), (match.start(2), match.end(2) + 1)

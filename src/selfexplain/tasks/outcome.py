"""What an intervention does to the output: the answer grammar of activation patching and input ablation.

The two sentences are those of Li et al., "Training Language Models to Explain Their Own Computations"
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
_VERDICT = len("The ")  # where the two sentences part


@dataclass(frozen=True)
class Outcome:
    """Whether the output changes, and what it is after the intervention (surrounding spaces do not count)."""

    changed: bool
    output: str


def render(outcome: Outcome) -> str:
    """The outcome as the sentence an explainer is trained to say."""
    return (_CHANGED if outcome.changed else _UNCHANGED).format(outcome.output)


def parse(text: str) -> Outcome | None:
    """The outcome that a sentence states; None where it states none."""
    match = _ANSWER.match(text)
    return Outcome(match[1] is not None, match[2].strip()) if match else None


def is_statable(output: str) -> bool:
    """Whether a sentence can state this output: not if it holds the marks that stand around it there."""
    return parse(render(Outcome(True, output))) == Outcome(True, output.strip())


def claim_spans(text: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Where a sentence makes its claim, `(begin, end)` characters; None where it states no outcome.

    The first span is the letter at which the two sentences part, the second is the output and one letter of what ends
    it. All other words follow from these.
    """
    match = _ANSWER.match(text)
    if match is None:
        return None
    verdict = match.start() + len(match[0]) - len(match[0].lstrip()) + _VERDICT
    return (verdict, verdict + 1), (match.start(2), match.end(2) + 1)

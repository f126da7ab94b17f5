"""Input ablation: if this part of the input is removed or replaced, does the answer change, and to what?

The answer is an `Outcome`. No vector is involved: the explainer reads what the target read.
"""

from collections.abc import Mapping
from typing import Any

from selfexplain.tasks.question import Question

HINT_TEMPLATES = (
    "\nIf the hint were removed, how would the answer change?\n",
    "\nWhat would the answer be without the hint?\n",
)
SPAN_TEMPLATES = ("\nIf {part} were removed, how would the answer change?\n",)
REPLACED_TEMPLATES = ("\nIf {part} were replaced by <<<{replacement}>>>, how would the answer change?\n",)


def question(text: str, removed: str | None = None, template: int = 0, replacement: str = "") -> Question:
    """Ask about removing `removed` from `text`, or putting `replacement` there; None asks about the hint."""
    part = "the hint" if removed is None else f"<<<{removed}>>>"
    return Question(text + templates(removed, replacement)[template].format(part=part, replacement=replacement))


def templates(removed: str | None, replacement: str = "") -> tuple[str, ...]:
    """The wordings of such a question."""
    if replacement:
        return REPLACED_TEMPLATES
    return HINT_TEMPLATES if removed is None else SPAN_TEMPLATES


def cell(row: Mapping[str, Any]) -> tuple[str, str]:
    """All that the lookup rule knows of a row: topic and style of the hint."""
    return row["topic"], row["hint_style"]

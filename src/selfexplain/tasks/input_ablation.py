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
HINT_REPLACED_TEMPLATE = "\nIf the hint were replaced by <<<{replacement}>>>, how would the answer change?\n"
SPAN_TEMPLATE = "\nIf <<<{removed}>>> were removed, how would the answer change?\n"


def question(text: str, removed: str | None = None, template: int = 0) -> Question:
    """Ask about removing `removed` from `text`; None asks about the hint."""
    if removed is None:
        return Question(text + HINT_TEMPLATES[template])
    return Question(text + SPAN_TEMPLATE.replace("{removed}", removed))


def replaced_hint_question(text: str, replacement: str) -> Question:
    """Ask about putting `replacement` in the place of the hint."""
    return Question(text + HINT_REPLACED_TEMPLATE.replace("{replacement}", replacement))


def cell(row: Mapping[str, Any]) -> tuple[str, str]:
    """All that the lookup rule knows of a row: topic and style of the hint."""
    return row["topic"], row["hint_style"]

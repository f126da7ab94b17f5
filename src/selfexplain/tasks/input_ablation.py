"""Input ablation: does the answer change, and to what, if a part of the input is removed or replaced?

The answer is an `Outcome`. The question contains no vector: the explainer reads the same text as the target.
"""

from collections.abc import Mapping
from typing import Any

from selfexplain.tasks.outcome import OUTCOME_METRICS
from selfexplain.tasks.question import Question
from selfexplain.tasks.task import Task

HINT_TEMPLATES = (
    "\nIf the hint were removed, how would the answer change?\n",
    "\nWhat would the answer be without the hint?\n",
)
SPAN_TEMPLATES = ("\nIf {part} were removed, how would the answer change?\n",)
REPLACED_TEMPLATES = ("\nIf {part} were replaced by <<<{replacement}>>>, how would the answer change?\n",)


def question(text: str, removed: str | None = None, template: int = 0, replacement: str = "") -> Question:
    """Ask what happens if a part of a text is removed or replaced.

    Args:
        text: the target's prompt.
        removed: the part of `text` to remove; None for its hint.
        template: index into `templates(removed, replacement)`.
        replacement: text that takes the place of the removed part; empty for none.
    """
    part = "the hint" if removed is None else f"<<<{removed}>>>"
    return Question(text + templates(removed, replacement)[template].format(part=part, replacement=replacement))


def templates(removed: str | None, replacement: str = "") -> tuple[str, ...]:
    """The wordings of the question for these arguments of `question`."""
    if replacement:
        return REPLACED_TEMPLATES
    return HINT_TEMPLATES if removed is None else SPAN_TEMPLATES


def cell(row: Mapping[str, Any]) -> tuple[str, str]:
    """The properties of a row that the lookup rule uses: its topic and the style of its hint."""
    return row["topic"], row["hint_style"]


TASK = Task(
    name="input_ablation",
    asks="what the answer becomes when a hint is removed from the question",
    short_question="What if a part were removed?",
    columns={
        "question": "text",
        "choices": "texts",
        "answer": "text",
        "topic": "text",
        "hint_style": "text",
        "hinted": "text",
        "target_prompt": "text",
        "removed_text": "text",
        "removed_span": "integers",
        "replacement": "text",
        "answered_by": "text",
        "full_output": "text",
        "ablated_output": "text",
        "changed": "flag",
        "option_log_probs_full": "reals",
        "option_log_probs_ablated": "reals",
    },
    query_columns=("target_prompt", "removed_text", "replacement", "choices", "answered_by", "changed"),
    metrics=OUTCOME_METRICS,
    headline="has_changed_macro_f1",
    correct_when="exact match",
    dataset_name="selfexplain-ablation",
    split_unit="question",
    states_outcome=True,
    cell=cell,
    strata=("hint_style", "topic"),
    max_tokens=384,
)

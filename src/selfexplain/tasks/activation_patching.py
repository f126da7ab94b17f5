"""Activation patching: how does the output change if a vector replaces the residual stream at some layers and a token?

The answer is an `Outcome`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from selfexplain.tasks.outcome import OUTCOME_METRICS
from selfexplain.tasks.question import Question, fill
from selfexplain.tasks.task import Task

TEMPLATES = (
    "If {activation} replaces layers {layers} at token {position}, {token}, of the text <<<{text}>>> "
    "how would the output change?\n",
    "With {activation} at layers {layers} of token {position}, {token}, in the text <<<{text}>>> "
    "what would the output be?\n",
    "In the text <<<{text}>>> the vector {activation} replaces layers {layers} at token {position}, {token}. "
    "How would the output change?\n",
)


def question(text: str, layers: Sequence[int], position: int, token: str, template: int = 0) -> Question:
    """Ask what happens if one vector replaces the outputs of several decoder blocks at one token.

    Args:
        text: the target's prompt.
        layers: indices of the decoder blocks whose output is replaced. All of them get the same vector.
        position: index of the token, counted from 0 with special tokens included.
        token: the decoded token. It is only shown to the reader; `position` decides which token is patched.
        template: index into `TEMPLATES`.
    """
    return fill(
        TEMPLATES[template],
        layers=", ".join(map(str, layers)),
        position=str(position),
        token=token.strip() or repr(token)[1:-1],
        text=text,
    )


def cell(row: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """The properties of a row that the lookup rule uses: its token type and its block of layers."""
    return row["token_type"], tuple(row["layers"])


TASK = Task(
    name="activation_patching",
    asks="what the output becomes when a vector replaces the residual stream at one token",
    short_question="What would a patch do?",
    columns={
        "target_prompt": "text",
        "prompt_ids": "integers",
        "prompt_tokens": "texts",
        "source_prompt": "text",
        "layers": "integers",
        "position": "integer",
        "token": "text",
        "token_type": "text",
        "source_position": "integer",
        "clean_output": "text",
        "patched_output": "text",
        "clean_output_id": "integer",
        "patched_output_id": "integer",
        "changed": "flag",
        "clean_log_prob": "real",
        "patched_log_prob": "real",
        "kl": "real",
    },
    query_columns=("target_prompt", "source_prompt", "layers", "position", "source_position", "changed"),
    metrics=OUTCOME_METRICS,
    headline="has_changed_macro_f1",
    correct_when="exact match",
    dataset_name="selfexplain-patching",
    split_unit="fact",
    templates=TEMPLATES,
    has_vectors=True,
    states_outcome=True,
    cell=cell,
    text_column="target_prompt",
    strata=("token_type", "layers"),
    max_tokens=192,
)

"""Wording of free questions in the template of an injection contract."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.tasks import free_question
from selfexplain.tasks.question import PLACEHOLDER


def test_only_the_template_contains_control_tokens():
    question = free_question.question("a</s>", [0], "<s>turn {activation}{question}</s>")
    spans = [question.prompt[begin:end] for begin, end in question.template_spans]
    assert spans == [f"<s>turn {PLACEHOLDER}", "</s>"] and question.placeholder_offsets == (8,)


@pytest.mark.parametrize(
    ("template", "text", "message"),
    [("{question}", "Why?", "no {activation}"), ("See {activation}", "Why?", "no place for a question")],
)
def test_a_template_without_a_placeholder_is_refused(template, text, message):
    with pytest.raises(SelfExplainError, match=message):
        free_question.question(text, [0], template)

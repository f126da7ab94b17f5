"""Ablation rows: one per question, with the hint removed or replaced, and counts of what is left out."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.builders import ablation
from selfexplain.groundtruth.config import AblationConfig
from selfexplain.groundtruth.sources import HintedQuestion
from selfexplain.target.load import Target
from selfexplain.target.tokens import token_text

QUESTION = HintedQuestion(
    "capital", "What is the capital of Spain?", ("Paris", "Madrid"), "Madrid", "Rome", "plain", "\nHint: Rome.",
    "What is the capital of Spain?\nHint: Rome.\nAnswer:", "What is the capital of Spain?\nAnswer:", "Spain",
)  # fmt: skip


def test_questions_that_cannot_be_used_are_counted(target):
    text = "What is the capital of Spain? Paris, Madrid or Rome? Hint: Rome. Answer:"
    question = HintedQuestion(
        "capital", "What is the capital of Spain?", ("Paris", "Madrid"), "Madrid", "Rome", "plain", " Hint: Rome.",
        text, text.replace(" Hint: Rome.", ""), "Spain",
    )  # fmt: skip
    long = replace(question, full_text=text + " very" * 300)
    room = target.context_length - len(target.encode(text)) - 8  # fits an option, but not the explainer's question
    nearly = replace(question, full_text=text.replace(" of", " of" * (room + 1)))
    assert len(target.encode(nearly.full_text)) == target.context_length - 8
    unhinted = replace(question, full_text=question.ablated_text)
    rows, counts = ablation.compute_rows(AblationConfig(), target, [question, long, nearly, unhinted], seed=0)
    assert len(rows) == 1 and counts["questions"] == 4
    assert counts["questions left out: question to the explainer longer than the context"] == 1
    assert counts["questions left out: longer than the context"] == counts["questions left out: hint not found"] == 1
    begin, end = rows[0]["removed_span"]
    assert text[:begin] + text[end:] == question.ablated_text
    with torch.no_grad():
        for column, prompt in (("full", text), ("ablated", question.ablated_text)):
            ids = target.encode(prompt)
            log_probs = target.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            options = [target.encode(f"{prompt} {choice}")[len(ids)] for choice in question.choices]
            assert rows[0][f"{column}_output"] == token_text(target.tokenizer, int(log_probs.argmax())).strip()
            assert rows[0][f"option_log_probs_{column}"] == pytest.approx(log_probs[options].tolist(), abs=1e-4)


def test_a_hint_can_be_replaced(target):
    (row,), _ = ablation.compute_rows(AblationConfig(replacement="No hint."), target, [QUESTION], seed=0)
    begin, end = row["removed_span"]
    without = row["target_prompt"][:begin] + row["replacement"] + row["target_prompt"][end:]
    assert without == "What is the capital of Spain?\nNo hint.\nAnswer:"
    assert row["prompt"].endswith("\nIf the hint were replaced by <<<No hint.>>>, how would the answer change?\n")
    with torch.no_grad():
        logits = target.model(torch.tensor([target.encode(without)])).logits[0, -1]
    assert row["ablated_output"] == token_text(target.tokenizer, int(logits.argmax())).strip()


def test_hints_that_cannot_be_replaced_are_counted(target):
    twice = replace(
        QUESTION, full_text="Hint: Rome. Is it?\nHint: Rome.\nAnswer:", ablated_text="Hint: Rome. Is it?\nAnswer:"
    )
    assert len(ablation.compute_rows(AblationConfig(), target, [twice], seed=0)[0]) == 1
    rows, counts = ablation.compute_rows(AblationConfig(replacement="None."), target, [QUESTION, twice], seed=0)
    assert len(rows) == 1 and counts["questions left out: hint not found"] == 1
    rows, counts = ablation.compute_rows(AblationConfig(replacement="very " * 300), target, [QUESTION], seed=0)
    assert not rows and counts["questions left out: longer than the context"] == 1


def test_the_answer_can_be_the_option_with_the_highest_likelihood(target):
    question = replace(QUESTION, choices=("Paris", "New Madrid", "not Rome"))
    (row,), _ = ablation.compute_rows(AblationConfig(answers="likelihood"), target, [question], seed=0)
    for column, prompt in (("full", question.full_text), ("ablated", question.ablated_text)):
        scores, ids = [], target.encode(prompt)
        for choice in question.choices:
            whole = torch.tensor([target.encode(f"{prompt} {choice}")])
            with torch.no_grad():
                log_probs = target.model(whole).logits[0, :-1].log_softmax(-1)
            scores.append(log_probs.gather(1, whole[0, 1:, None])[len(ids) - 1 :].sum().item())
        assert row[f"option_log_probs_{column}"] == pytest.approx(scores, abs=1e-4)
        assert row[f"{column}_output"] == question.choices[int(np.argmax(scores))]
    assert row["answered_by"] == "likelihood"


def test_an_option_that_merges_with_the_text_is_counted(target):
    tokenizer = deepcopy(target.tokenizer)
    tokenizer.add_tokens(": No")
    merged = Target(target.model, tokenizer, "merging")
    questions = [QUESTION, replace(QUESTION, choices=("Paris", "No")), replace(QUESTION, choices=("Paris", ""))]
    rows, counts = ablation.compute_rows(AblationConfig(), merged, questions, seed=0)
    assert len(rows) == 1 and counts["questions left out: an option merges with the text before it"] == 2


def test_a_target_that_ignores_hints_raises_an_error():
    row = {"group": "a", "changed": False, "topic": "t", "full_output": "A", "hinted": "B"}
    with pytest.raises(SelfExplainError, match="None of 1 answers changes if the hint is removed"):
        ablation.draw_rows(AblationConfig(), [row], seed=0)
    with pytest.raises(SelfExplainError, match="None of 0 answers"):
        ablation.draw_rows(AblationConfig(), [], seed=0)


@pytest.mark.parametrize("settings", [{}, {"replacement": "None."}, {"answers": "likelihood"}])
def test_rerunning_a_row_reproduces_its_outputs(target, settings):
    config = AblationConfig(**settings)
    (row,), _ = ablation.compute_rows(config, target, [QUESTION], seed=0)
    stored, found = ablation.rerun(target, row)
    assert stored == found == f"{row['full_output']!r} -> {row['ablated_output']!r}"
    assert ablation.rerun(target, row | {"full_output": "other"})[0] != found

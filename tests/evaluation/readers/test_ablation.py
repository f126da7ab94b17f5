"""Readers of input ablation."""

import math

import numpy as np
import pytest

from selfexplain.evaluation.readers import Material, NotAvailable, readers_of
from selfexplain.evaluation.readers.ablation import _margin
from selfexplain.tasks.outcome import Outcome, parse, render

READERS = readers_of("input_ablation")
CHOICES = ["Rome", "Paris", "Madrid"]


def row(index, margin):
    """A question whose answer changes if it follows the hint and its margin is small."""
    hinted = CHOICES[index % 3]
    output = hinted if index % 2 else CHOICES[(index + 1) % 3]
    changed = output == hinted and margin < 1
    log_probs = [-margin - 1.0] * 3
    log_probs[CHOICES.index(output)] = -1.0
    second = CHOICES[(CHOICES.index(output) + 1) % 3]
    log_probs[CHOICES.index(second)] = -margin - 0.9
    return {
        "target_prompt": f"What is the capital of Spain? Answer with one of Paris, Tokyo. The answer is {hinted}.",
        "hint_style": "direct",
        "topic": "capitals",
        "hinted": hinted,
        "choices": CHOICES,
        "full_output": output,
        "option_log_probs_full": log_probs,
        "replacement": "",
        "changed": changed,
        "completion": render(Outcome(changed, second if changed else output)),
    }


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return [row(index, float(margin)) for index, margin in enumerate(rng.uniform(0, 2, 240))]


def test_gradient_boosting_and_the_second_choice_predict_what_the_margin_tells(rows):
    material = Material(rows[:160], rows[160:200])
    verdicts = READERS["gradient_boosting"](material).answer(rows[200:])
    assert np.mean(np.equal(verdicts, [row["changed"] for row in rows[200:]])) > 0.9
    answers = READERS["second_choice"](material).answer(rows[200:])
    assert [parse(text).changed for text in answers] == verdicts
    assert np.mean([text == row["completion"] for text, row in zip(answers, rows[200:], strict=True)]) > 0.9


def test_the_target_is_asked_in_words_and_answers_with_an_option(target, rows):
    fitted = READERS["asked_in_words"](Material(rows[:9], rows[:9], {}, 0, lambda: target))
    outcomes = [parse(text) for text in fitted.answer(rows[:9])]
    assert {outcome.output for outcome in outcomes} <= set(CHOICES)
    assert [o.changed for o in outcomes] == [
        o.output != row["full_output"] for o, row in zip(outcomes, rows[:9], strict=True)
    ]
    assert fitted.settings["wording"]


def test_the_target_is_not_asked_if_its_answers_are_letters_and_the_choices_are_texts(rows):
    published = [{**row, "full_output": "B"} for row in rows]
    with pytest.raises(NotAvailable, match="no answer of the target is one of the choices"):
        READERS["asked_in_words"](Material(published))


def test_rows_without_log_probabilities_have_no_second_choice_and_no_margin(rows):
    bare = [{**row, "option_log_probs_full": []} for row in rows]
    with pytest.raises(NotAvailable, match="log-probabilities of the options"):
        READERS["second_choice"](Material(bare))
    assert len(READERS["gradient_boosting"](Material(bare)).answer(bare)) == len(bare)
    assert math.isnan(_margin([])) and _margin([-3.0, -1.0, -1.5]) == pytest.approx(0.5)

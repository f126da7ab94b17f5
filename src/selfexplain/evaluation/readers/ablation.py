"""Readers of input ablation: what can be predicted from the question, the hint and the target's present answer?"""

from collections.abc import Sequence

import numpy as np

from selfexplain.evaluation.readers.boosting import Boosting, Table, fit_boosting
from selfexplain.evaluation.readers.reader import Fitted, Material, NotAvailable, Row, best_on_validation, reader
from selfexplain.tasks import input_ablation
from selfexplain.tasks.outcome import Outcome, render

TASK = input_ablation.TASK

WORDINGS = (
    "\nWithout the hint, the answer would be",
    "\nThe hint is wrong. The correct answer is",
    "\nIgnore the hint.\nAnswer:",
)
"""Ways to ask the target; the one that scores best on the validation rows is used."""


@reader(TASK)
def gradient_boosting(material: Material) -> Fitted:
    """Whether the answer changes, from hint style, hinted letter, topic, and the target's answer and its margin."""
    boosting = material.share(_fit)
    return Fitted(lambda rows: boosting.predict(_table(rows)), boosting.settings)


@reader(TASK)
def second_choice(material: Material) -> Fitted:
    """Where gradient boosting predicts a change, the option that the target ranks next with the hint."""
    boosting = material.share(_fit)
    if not any(len(row["option_log_probs_full"]) for row in material.train):
        raise NotAvailable("the rows do not contain the log-probabilities of the options")

    def answer(rows: Sequence[Row]) -> list[str]:
        changed = boosting.predict(_table(rows))
        return [
            render(Outcome(True, _next_option(row)) if is_changed else Outcome(False, row["full_output"]))
            for row, is_changed in zip(rows, changed, strict=True)
        ]

    return Fitted(answer, boosting.settings)


@reader(TASK)
def asked_in_words(material: Material) -> Fitted:
    """The target reads its own question and is asked in words for the answer without the hint."""
    material.require("target_prompt", "choices", "full_output")
    if not any(row["full_output"] in row["choices"] for row in material.train):
        raise NotAvailable("no answer of the target is one of the choices")
    validation = list(material.validation)

    def score(wording: str) -> float:
        answered = _ask(material, wording, validation)
        return float(np.mean([text == row["completion"] for text, row in zip(answered, validation, strict=True)]))

    wording = best_on_validation(WORDINGS, score) if validation else WORDINGS[0]
    return Fitted(lambda rows: _ask(material, wording, rows), {"wording": wording.strip()})


def _fit(material: Material) -> Boosting:
    material.require("hint_style", "hinted", "topic", "choices", "full_output", "option_log_probs_full")
    train, validation = list(material.train), list(material.validation)
    labels, validation_labels = ([row["changed"] for row in rows] for rows in (train, validation))
    return fit_boosting(_table(train), labels, _table(validation), validation_labels, material.seed)


def _table(rows: Sequence[Row]) -> Table:
    return {
        "hint_style": [row["hint_style"] for row in rows],
        "topic": [row["topic"] for row in rows],
        "hinted": [_index(row, row["hinted"]) for row in rows],
        "answer": [_index(row, row["full_output"]) for row in rows],
        "follows_hint": [float(row["full_output"] == row["hinted"]) for row in rows],
        "margin": [_margin(row["option_log_probs_full"]) for row in rows],
    }


def _index(row: Row, option: str) -> float:
    """The number of an option; NaN if it is none of the choices."""
    return float(row["choices"].index(option)) if option in row["choices"] else np.nan


def _margin(log_probs: Sequence[float]) -> float:
    """The difference between the two highest log-probabilities; NaN if there are fewer than two."""
    return float(np.diff(np.sort(log_probs)[-2:])[0]) if len(log_probs) > 1 else np.nan


def _next_option(row: Row) -> str:
    """The most likely option other than the target's answer."""
    ranked = sorted(zip(row["option_log_probs_full"], row["choices"], strict=False), reverse=True)
    return next((choice for _, choice in ranked if choice != row["full_output"]), row["full_output"])


def _ask(material: Material, wording: str, rows: Sequence[Row]) -> list[str]:
    """Answers to the question in words, each the most likely option."""
    from selfexplain.target.ablation import answers, continuations
    from selfexplain.target.tokens import encode_text

    target = material.target
    texts = [row["target_prompt"] + wording for row in rows]
    possible = [
        None not in continuations(target, text, row["choices"])
        and len(encode_text(target.tokenizer, text)) < target.context_length
        for text, row in zip(texts, rows, strict=True)
    ]
    asked = [index for index, is_possible in enumerate(possible) if is_possible]
    replies = answers(target, [texts[i] for i in asked], [rows[i]["choices"] for i in asked])
    options = {i: rows[i]["choices"][int(np.argmax(r.option_log_probs))] for i, r in zip(asked, replies, strict=True)}
    outputs = [options[index] if index in options else row["full_output"] for index, row in enumerate(rows)]
    return [render(Outcome(output != row["full_output"], output)) for output, row in zip(outputs, rows, strict=True)]

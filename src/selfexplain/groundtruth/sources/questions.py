"""Read multiple-choice questions from a table and add hints to them."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import QuestionSource
from selfexplain.groundtruth.sources.items import HintedQuestion, SourceItems
from selfexplain.groundtruth.sources.tables import read_columns
from selfexplain.groundtruth.sources.tokens import fits
from selfexplain.groundtruth.splits import near_duplicate_groups
from selfexplain.target.ablation import render
from selfexplain.target.load import Target


@dataclass(frozen=True)
class _Question:
    """A valid row of the table.

    Attributes:
        question: the question without its options.
        text: the question with its lettered options.
        labels: the letters of the options.
        answer: index of the correct option.
    """

    topic: str
    question: str
    text: str
    labels: str
    answer: int


def table_questions(source: QuestionSource, target: Target, n: int, seed: int) -> SourceItems[HintedQuestion]:
    """Up to `n` questions of a table, each with a random hint (letter and style).

    If `n` exceeds the number of questions, questions are repeated with different hints.

    Raises:
        SelfExplainError: the table is missing or unreadable, a hint lacks `{}`, or the target has no chat template.
    """
    if not source.hints:
        raise SelfExplainError("source.hints is empty. Give at least one hint style as a name and a text.")
    if invalid := [name for name, hint in source.hints.items() if "{}" not in hint]:
        raise SelfExplainError(f"source.hints {invalid} contain no {{}}. Put {{}} where the hinted letter belongs.")
    result: SourceItems[HintedQuestion] = SourceItems()
    questions = _read_questions(source, result.skipped)
    groups = near_duplicate_groups([question.text for question in questions])
    rng = random.Random(seed)
    order = list(zip(questions, groups, strict=True))
    rng.shuffle(order)

    def as_prompt(user: str) -> str:
        return render(target, user, source.system, source.answer_prefix, source.chat)

    seen: set[str] = set()
    for round_ in range(n):
        n_before = len(seen)
        for question, group in order:
            if len(result.items) == n:
                break
            style = rng.choice(list(source.hints))
            hinted = rng.choice(question.labels)
            hint = "\n" + source.hints[style].format(hinted)
            full_text = as_prompt(question.text + hint)
            if full_text in seen:
                continue
            if not fits(target, full_text):
                result.skipped["longer than the context"] += round_ == 0
                continue
            seen.add(full_text)
            result.items.append(
                HintedQuestion(
                    topic=question.topic,
                    question=question.question,
                    choices=tuple(question.labels),
                    answer=question.labels[question.answer],
                    hinted=hinted,
                    hint_style=style,
                    hint=hint,
                    full_text=full_text,
                    ablated_text=as_prompt(question.text),
                    group=group,
                )
            )
        if len(seen) in (n_before, n):
            break
    return result


def _read_questions(source: QuestionSource, skipped: Counter[str]) -> list[_Question]:
    """The valid rows of the table; counts the others in `skipped`."""
    questions = []
    for row in _rows(source):
        labels = ascii_uppercase[: len(row["choices"])]
        answer = _answer_index(row["answer"], row["choices"])
        if not row["question"].strip():
            skipped["no question"] += 1
        elif not 2 <= len(labels) == len(row["choices"]):
            skipped[f"fewer than 2 or more than {len(ascii_uppercase)} choices"] += 1
        elif answer is None:
            skipped["the answer is not one of the choices"] += 1
        else:
            options = "\n".join(f"{label}. {choice}" for label, choice in zip(labels, row["choices"], strict=True))
            text = f"{row['question']}\n{options}"
            questions.append(_Question(row.get("subject") or "", row["question"], text, labels, answer))
    return questions


def _rows(source: QuestionSource) -> Iterator[dict[str, Any]]:
    """Rows with `question`, `choices` as a list, `answer`, and `subject` if the table has it."""
    columns = [name.strip() for name in source.columns.get("choices", "choices").split(",")]
    if len(columns) == 1:
        yield from read_columns(source, ["question", "choices", "answer"], ["subject"])
        return
    table = replace(source, columns={name: column for name, column in source.columns.items() if name != "choices"})
    for row in read_columns(table, ["question", "answer", *columns], ["subject"]):
        yield {**row, "choices": [str(row[column]) for column in columns if row[column] not in (None, "")]}


def _answer_index(answer: Any, choices: list[str]) -> int | None:
    """The index of the correct choice, given as a number or as a string (the choice, its letter or its index)."""
    if isinstance(answer, str):
        text = answer.strip()
        if text in choices:
            return choices.index(text)
        if text.isdigit():
            answer = int(text)
        elif len(text) == 1 and text.upper() in ascii_uppercase:
            answer = ascii_uppercase.index(text.upper())
    return answer if isinstance(answer, int) and 0 <= answer < len(choices) else None

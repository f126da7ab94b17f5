"""Multiple-choice questions with a hint."""

import random
from dataclasses import replace
from string import ascii_uppercase
from typing import Any

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import QuestionSource
from selfexplain.groundtruth.sources.items import Found, HintedQuestion
from selfexplain.groundtruth.sources.tables import read_columns
from selfexplain.groundtruth.sources.tokens import fits
from selfexplain.groundtruth.splits import near_duplicate_groups
from selfexplain.target.ablation import render
from selfexplain.target.load import Target


def table_questions(source: QuestionSource, target: Target, n: int, seed: int) -> Found[HintedQuestion]:
    """Questions of a table, each with a hint at one of its letters, in one of the styles.

    Where more are wanted than there are questions, they are asked again with other hints.

    Raises:
        SelfExplainError: the table is missing or unreadable, a hint lacks `{}`, or the target has no chat template.
    """
    if not source.hints:
        raise SelfExplainError("source.hints is empty: give at least one style of hint, its text by its name.")
    if wrong := [name for name, hint in source.hints.items() if "{}" not in hint]:
        raise SelfExplainError(f"source.hints: {wrong} has no {{}} for the letter that is hinted at.")
    found: Found[HintedQuestion] = Found()
    asked = []
    for row in _rows(source):
        labels = ascii_uppercase[: len(row["choices"])]
        answer = _answer(row["answer"], row["choices"])
        if not row["question"].strip():
            found.skipped["no question"] += 1
        elif not 2 <= len(labels) == len(row["choices"]):
            found.skipped[f"fewer than 2 or more than {len(ascii_uppercase)} choices"] += 1
        elif answer is None:
            found.skipped["its answer is none of the choices"] += 1
        else:
            options = "\n".join(f"{label}. {choice}" for label, choice in zip(labels, row["choices"], strict=True))
            asked.append((row.get("subject") or "", row["question"], f"{row['question']}\n{options}", labels, answer))
    groups = near_duplicate_groups([text for _, _, text, _, _ in asked])
    rng = random.Random(seed)
    order = list(zip(asked, groups, strict=True))
    rng.shuffle(order)

    def asked_with(user: str) -> str:
        return render(target, user, source.system, source.answer_prefix, source.chat)

    seen: set[str] = set()
    for round_ in range(n):
        before = len(seen)
        for (topic, question, text, labels, answer), group in order:
            if len(found.items) == n:
                break
            style = rng.choice(list(source.hints))
            hinted = rng.choice(labels)
            hint = "\n" + source.hints[style].format(hinted)
            full_text = asked_with(text + hint)
            if full_text in seen:
                continue
            if not fits(target, full_text):
                found.skipped["longer than the context"] += round_ == 0
                continue
            seen.add(full_text)
            found.items.append(
                HintedQuestion(
                    topic,
                    question,
                    tuple(labels),
                    labels[answer],
                    hinted,
                    style,
                    hint,
                    full_text,
                    asked_with(text),
                    group,
                )
            )
        if len(seen) in (before, n):
            break
    return found


def _rows(source: QuestionSource):
    """Rows with `question`, `choices` as a list, `answer`, and `subject` where the table has it."""
    columns = [name.strip() for name in source.columns.get("choices", "choices").split(",")]
    if len(columns) == 1:
        yield from read_columns(source, ["question", "choices", "answer"], ["subject"])
        return
    table = replace(source, columns={name: column for name, column in source.columns.items() if name != "choices"})
    for row in read_columns(table, ["question", "answer", *columns], ["subject"]):
        yield {**row, "choices": [str(row[column]) for column in columns if row[column] not in (None, "")]}


def _answer(answer: Any, choices: list[str]) -> int | None:
    """The index of the right choice: given as a number, or in words as the choice itself, its letter or its index."""
    if isinstance(answer, str):
        text = answer.strip()
        if text in choices:
            return choices.index(text)
        if text.isdigit():
            answer = int(text)
        elif len(text) == 1 and text.upper() in ascii_uppercase:
            answer = ascii_uppercase.index(text.upper())
    return answer if isinstance(answer, int) and 0 <= answer < len(choices) else None

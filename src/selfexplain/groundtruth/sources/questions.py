"""Read multiple-choice questions from a table and add hints to them."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from string import ascii_uppercase

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import QuestionSource
from selfexplain.groundtruth.sources.choices import GivenAnswer, choices_of_columns, find_correct, read_choices
from selfexplain.groundtruth.sources.items import HintedQuestion, SourceItems
from selfexplain.groundtruth.sources.tables import read_columns
from selfexplain.groundtruth.sources.tokens import fits
from selfexplain.groundtruth.sources.values import Skips, as_text, as_word, is_missing
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
        SelfExplainError: the table is missing or unreadable, a hint lacks `{}`, the target has no chat template, or
            answers have two readings.
    """
    if not source.hints:
        raise SelfExplainError("source.hints is empty. Give at least one hint style as a name and a text.")
    if invalid := [name for name, hint in source.hints.items() if "{}" not in hint]:
        raise SelfExplainError(f"source.hints {invalid} contain no {{}}. Put {{}} where the hinted letter belongs.")
    result: SourceItems[HintedQuestion] = SourceItems()
    questions = _read_questions(source, result.skipped, seed)
    groups = near_duplicate_groups([question.text for question in questions])
    rng = random.Random(seed)
    order = list(zip(questions, groups, strict=True))
    rng.shuffle(order)

    def as_prompt(user: str, labels: str) -> str:
        system = source.system.replace("{letters}", _enumerate(labels))
        return render(target, user, system, source.answer_prefix, source.chat)

    seen: set[str] = set()
    for round_ in range(n):
        n_before = len(seen)
        for question, group in order:
            if len(result.items) == n:
                break
            style = rng.choice(list(source.hints))
            hinted = rng.choice(question.labels)
            hint = "\n" + source.hints[style].replace("{}", hinted)
            full_text = as_prompt(question.text + hint, question.labels)
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
                    ablated_text=as_prompt(question.text, question.labels),
                    group=group,
                )
            )
        if len(seen) in (n_before, n):
            break
    return result


def _enumerate(letters: str) -> str:
    """Letters in words: "A or B", "A, B, or C"."""
    return " or ".join(letters) if len(letters) == 2 else f"{', '.join(letters[:-1])}, or {letters[-1]}"


def _read_questions(source: QuestionSource, skipped: Counter[str], seed: int) -> list[_Question]:
    """The valid rows of the table; counts the others in `skipped`."""
    skips = Skips()
    rows = list(_valid_rows(source, skips))
    marked = [row.answer.choices.correct is not None for row in rows]
    correct = find_correct([row.answer for row in rows], source.answer_form, str(source.path))
    questions = []
    for row, is_marked, index in zip(rows, marked, correct, strict=True):
        if index is None:
            skips.add("the answer is not one of the choices", row.answer.row)
            continue
        texts = row.answer.choices.texts
        order = list(range(len(texts)))
        if is_marked:  # the table does not choose the position of the correct choice
            random.Random(f"{seed} {row.question}").shuffle(order)
        labels = ascii_uppercase[: len(texts)]
        options = "\n".join(f"{label}. {texts[i]}" for label, i in zip(labels, order, strict=True))
        text = f"{row.question}\n{options}"
        questions.append(_Question(row.topic, row.question, text, labels, order.index(index)))
    skipped.update(skips.counter())
    return questions


@dataclass(frozen=True)
class _Row:
    """A row with a question and choices; the answer is not read yet."""

    topic: str
    question: str
    answer: GivenAnswer


def _valid_rows(source: QuestionSource, skips: Skips) -> Iterator[_Row]:
    """The rows that have a question, 2 to 26 choices and an answer; the others are added to `skips`."""
    columns = [name.strip() for name in source.columns.get("choices", "choices").split(",")]
    in_columns = len(columns) > 1
    names = {name: column for name, column in source.columns.items() if not (in_columns and name == "choices")}
    table = replace(source, columns=names)
    required = ["question", *(columns if in_columns else ["choices"])]
    has_answers = False
    for number, row in read_columns(table, required, ["answer", "subject"], skips):
        question = as_text(row["question"])
        choices = choices_of_columns(row, columns) if in_columns else read_choices(row["choices"])
        if in_columns and source.columns.get("answer") in columns and not isinstance(choices, str):
            choices = replace(choices, correct=columns.index(source.columns["answer"]))
        marked = not isinstance(choices, str) and choices.correct is not None
        has_answers |= marked or "answer" in row
        if question is None:
            skips.add("no question", number)
        elif isinstance(choices, str):
            skips.add(choices, number)
        elif not 2 <= len(choices.texts) <= len(ascii_uppercase):
            skips.add(f"fewer than 2 or more than {len(ascii_uppercase)} choices", number)
        elif is_missing(row.get("answer")) and (in_columns or not marked):
            skips.add("no answer", number)
        else:
            yield _Row(as_word(row.get("subject")) or "", question, GivenAnswer(number, row.get("answer"), choices))
    if not has_answers:  # raises if the table has rows, and suggests the nearest column
        columns_of_answer = {name: column for name, column in names.items() if name == "answer"}
        next(read_columns(replace(source, columns=columns_of_answer), ["answer"], [], Skips()), None)

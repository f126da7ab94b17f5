"""Read the choices of a multiple-choice question, and find the correct one, in the forms of published datasets."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.sources.values import as_word, as_words, is_missing

logger = logging.getLogger(__name__)

DELIMITERS = "|\n"
"""Characters that may separate the choices in one cell."""

TEXT_KEYS, LABEL_KEYS = ("text", "texts", "choices", "options"), ("label", "labels")

AnswerForm = Literal["text", "letter", "zero_based", "one_based"]
"""How a table names the correct choice if it names no label: by its text, its letter, or its index."""

_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_DIGITS = re.compile(r"\d{1,4}")

_FORMS: dict[str, tuple[AnswerForm, ...]] = {
    "number": ("zero_based", "one_based"),
    "number among numbers": ("text", "zero_based", "one_based"),
    "digits": ("text", "zero_based", "one_based"),
    "letter": ("letter", "text"),
    "text": ("text",),
}
"""Kind of a given answer -> the forms that it may have, the most likely one first."""


@dataclass(frozen=True)
class Choices:
    """The choices of a question.

    Attributes:
        texts: the choices.
        labels: the table's own names of the choices; empty if it has none.
        correct: index of the correct choice if the choices themselves mark it, otherwise None.
        are_numbers: whether the table has numbers in place of texts.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    correct: int | None = None
    are_numbers: bool = False


@dataclass(frozen=True)
class GivenAnswer:
    """The answer to a question as a table gives it, with the number of its row."""

    row: int
    value: Any
    choices: Choices


def read_choices(value: Any) -> Choices | str:
    """The choices in a cell, or the reason why they cannot be used.

    A cell can hold a list of texts; text that is such a list in JSON or Python, or that contains `|` or line breaks; a
    mapping of labels to texts; a list of mappings with `text` and `label`; or a mapping of two lists: texts with labels
    (as in ARC), or texts with a 1 for the correct one and 0 for all others (as in TruthfulQA).
    """
    if is_missing(value):
        return "no choices"
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        value = {key: [item.get(key) for item in value] for key in ("text", "label")}
    if isinstance(value, Mapping):
        return _of_mapping(value)
    words = as_words(value, DELIMITERS)
    if words is None and isinstance(value, list):
        return "a choice is empty or not text"
    if words is None or (len(words) == 1 and isinstance(value, str)):
        return "the choices are not a list of texts"
    return Choices(tuple(words), are_numbers=isinstance(value, list) and not any(isinstance(v, str) for v in value))


def choices_of_columns(row: Mapping[str, Any], columns: Sequence[str]) -> Choices | str:
    """The choices in several columns, or the reason why they cannot be used. Empty columns at the end are no choices.

    The names of the columns are the labels.
    """
    values = [row[column] for column in columns]
    while values and is_missing(values[-1]):
        values.pop()
    words = [as_word(value) for value in values]
    if None in words:
        return "a choice is empty or not text"
    return Choices(tuple(word for word in words if word is not None), tuple(columns[: len(words)]))


def _of_mapping(value: Mapping[str, Any]) -> Choices | str:
    texts = next((value[key] for key in TEXT_KEYS if isinstance(value.get(key), list)), None)
    if texts is None:  # label -> text
        given = {str(label): text for label, text in value.items() if not is_missing(text)}
        words = [as_word(text) for text in given.values()]
        if None in words or not all(len(label) <= 2 for label in given):
            return "the choices are not a list of texts"
        return Choices(tuple(word for word in words if word is not None), tuple(given))
    words_or_none, name = as_words(texts, DELIMITERS), next((key for key in LABEL_KEYS if key in value), None)
    if words_or_none is None:
        return "a choice is empty or not text"
    if name is None:
        return Choices(tuple(words_or_none))
    labels = value[name]
    if not isinstance(labels, list) or len(labels) != len(words_or_none):
        return "not one label per choice"
    if all(label in (0, 1) for label in labels) and (name == "labels" or len(labels) > 2):
        if sum(labels) != 1:
            return "not exactly one correct choice"
        return Choices(tuple(words_or_none), correct=labels.index(1))
    names = as_words(labels, DELIMITERS)
    return Choices(tuple(words_or_none), tuple(names)) if names is not None else "a label is empty or not text"


def find_correct(given: Sequence[GivenAnswer], form: AnswerForm | None, source: str) -> list[int | None]:
    """Index of the correct choice of each question; None if the answer is not one of the choices.

    An answer that is a label of its choices names that choice. All other answers of one kind (numbers, digits, letters,
    other texts) are read in the same form: the one that fits most of them. Logs a warning if answers are read as
    numbers from 1, or are read as numbers from 0 and could also be numbers from 1.

    Args:
        given: the answers of a table.
        form: form of the answers; None to infer it.
        source: name of the table, for messages.

    Raises:
        SelfExplainError: two other forms fit equally many answers of a kind and lead to different choices. Digits that
            are the text of a choice are read as text.
    """
    correct = [_marked(answer) for answer in given]
    by_kind: dict[str, list[int]] = {}
    for index, answer in enumerate(given):
        if correct[index] is None:
            by_kind.setdefault(_kind(answer), []).append(index)
    for kind, indices in by_kind.items():
        forms = (form,) if form else _FORMS[kind]
        found = {candidate: [_index(given[index], candidate) for index in indices] for candidate in forms}
        fits = {candidate: sum(choice is not None for choice in choices) for candidate, choices in found.items()}
        best = max(forms, key=fits.__getitem__)
        for other in forms:
            if other != best and fits[other] == fits[best] > 0:
                _check_tie([given[i] for i in indices], best, found[best], other, found[other], source)
        if best == "one_based":
            logger.warning("%s: answers are read as numbers from 1, because no answer is 0.", source)
        for index, choice in zip(indices, found[best], strict=True):
            correct[index] = choice
    return correct


def _marked(answer: GivenAnswer) -> int | None:
    """The choice that the choices themselves, a list of 0 and 1, or a label mark as correct."""
    choices, value = answer.choices, answer.value
    if choices.correct is not None:
        return choices.correct
    if isinstance(value, Mapping):
        value = next((value[key] for key in LABEL_KEYS if key in value), None)
    if isinstance(value, list):
        marks = len(value) == len(choices.texts) and all(mark in (0, 1) for mark in value) and sum(value) == 1
        return value.index(1) if marks else None
    word = as_word(value)
    names = [label.casefold() for label in choices.labels]
    return names.index(word.strip().casefold()) if word and names.count(word.strip().casefold()) == 1 else None


def _kind(answer: GivenAnswer) -> str:
    value = answer.value
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        return "number among numbers" if answer.choices.are_numbers else "number"
    text = value.strip() if isinstance(value, str) else ""
    return "digits" if _DIGITS.fullmatch(text) else "letter" if _LETTER.fullmatch(text) else "text"


def _index(answer: GivenAnswer, form: AnswerForm) -> int | None:
    """The choice that an answer names if it is read in this form; None if it names none."""
    texts = [text.strip() for text in answer.choices.texts]
    word = str(answer.value) if isinstance(answer.value, bool) else as_word(answer.value)
    word = word.strip() if word else ""
    if form == "text":
        return texts.index(word) if texts.count(word) == 1 else None
    if form == "letter":
        match = _LETTER.fullmatch(word)
        index = ord(match[1].upper()) - ord("A") if match else -1
    else:
        match = re.fullmatch(r"(\d{1,4})(\.0)?", word)
        index = int(match[1]) - (form == "one_based") if match else -1
    return index if 0 <= index < len(texts) else None


def _check_tie(
    given: Sequence[GivenAnswer],
    best: AnswerForm,
    found: Sequence[int | None],
    other: AnswerForm,
    found_other: Sequence[int | None],
    source: str,
) -> None:
    """Warn, or raise, if two forms that fit equally well lead to different choices."""
    differing = [n for n, (a, b) in enumerate(zip(found, found_other, strict=True)) if a != b]
    if not differing:
        return
    first = given[differing[0]]
    if best == "zero_based":
        logger.warning(
            "%s: answers such as %r in row %d are read as numbers from 0, but also fit numbers from 1. If they count "
            "from 1, set input_ablation.source.answer_form=one_based.",
            source,
            first.value,
            first.row,
        )
    elif not (best == "text" and _kind(first) == "digits"):
        raise SelfExplainError(
            f"{source}, row {first.row}: answer {first.value!r} has two readings: {best} (choice "
            f"{found[differing[0]]}, counted from 0) and {other} (choice {found_other[differing[0]]}). Set "
            f"input_ablation.source.answer_form to {best} or {other}."
        )

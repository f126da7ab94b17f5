"""Which choice an answer names: labels, texts, letters and numbers, decided for a whole table."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.sources.choices import Choices, GivenAnswer, find_correct, read_choices

COLOURS = ["red", "green", "blue", "grey"]


def found(*rows, form=None):
    given = [GivenAnswer(n, answer, read_choices(choices)) for n, (choices, answer) in enumerate(rows, start=1)]
    return find_correct(given, form, "table")


@pytest.mark.parametrize(
    "cell",
    [
        ["3", "5", "7", "9"],
        [3, 5, 7, 9],
        "3|5|7|9",
        "3 | 5 | 7 | 9",
        "3\n5\n7\n9",
        '["3", "5", "7", "9"]',
        "['3', '5', '7', '9']",
        "[3, 5, 7, 9]",
        {"text": ["3", "5", "7", "9"]},
        {"A": "3", "B": "5", "C": "7", "D": "9", "E": None},
        [{"label": label, "text": text} for label, text in zip("ABCD", "3579", strict=True)],
        {"choices": ["3", "5", "7", "9"], "labels": [0, 0, 0, 1]},
    ],
)
def test_choices_are_read_from_every_form(cell):
    choices = read_choices(cell)
    assert isinstance(choices, Choices) and choices.texts == ("3", "5", "7", "9")


@pytest.mark.parametrize(
    ("cell", "answer", "index"),
    [
        (COLOURS, "green", 1),
        (COLOURS, " green ", 1),
        (COLOURS, "B", 1),
        (COLOURS, "b", 1),
        (COLOURS, "(B)", 1),
        (COLOURS, "B.", 1),
        (COLOURS, 1, 1),
        (COLOURS, 1.0, 1),
        (COLOURS, "1", 1),
        (COLOURS, [0, 1, 0, 0], 1),
        (COLOURS, [False, True, False, False], 1),
        (COLOURS, {"labels": [0, 1, 0, 0]}, 1),
        ("3|5|7|9", "7", 2),
        ([1, 2, 3, 4], "3", 2),
        (["1", "2", "3", "4"], "3", 2),
        (["1", "2", "3", "4"], 3, 3),
        ([3, 5, 7, 9], 7, 2),
        ([True, "no"], "no", None),
        (["True", "False"], False, 1),
        ({"text": COLOURS, "label": ["1", "2", "3", "4"]}, "2", 1),
        ({"text": COLOURS, "label": [1, 2, 3, 4]}, 2, 1),
        ({"text": ["4", "3", "2", "1"], "label": ["1", "2", "3", "4"]}, "2", 1),
        ({"text": COLOURS, "label": list("ABCD")}, "b", 1),
        ({"text": COLOURS, "label": list("WXYZ")}, "X", 1),
        ({"A": "red", "B": "green"}, "B", 1),
        ({"A": "red", "B": "green"}, "green", 1),
        ({"choices": COLOURS, "labels": [0, 1, 0, 0]}, None, 1),
        (["same", "same", "other"], "same", None),
        (COLOURS, "pink", None),
        (COLOURS, "E", None),
        (COLOURS, 9, None),
        (COLOURS, -1, None),
        (COLOURS, True, None),
        (COLOURS, 0.5, None),
    ],
)
def test_a_single_answer(cell, answer, index):
    choices = read_choices(cell)
    if isinstance(choices, str):
        assert index is None
    else:
        assert find_correct([GivenAnswer(1, answer, choices)], None, "table") == [index]


def test_numbers_count_from_one_if_none_is_zero_and_one_is_the_last(caplog):
    assert found((COLOURS, 1), (COLOURS, 4), (COLOURS[:2], 2)) == [0, 3, 1]
    assert "answers are read as numbers from 1" in caplog.text
    assert found((COLOURS, "1"), (COLOURS, "4")) == [0, 3]
    assert found((COLOURS, 0), (COLOURS, 3), (COLOURS, 4)) == [0, 3, None]


def test_numbers_that_fit_both_ways_count_from_zero_with_a_warning(caplog):
    assert found((COLOURS, 1), (COLOURS, 3)) == [1, 3]
    assert "answers such as 1 in row 1 are read as numbers from 0" in caplog.text
    assert found((COLOURS, 1), (COLOURS, 3), form="one_based") == [0, 2]


def test_digits_are_indices_if_they_are_not_always_one_of_the_choices():
    assert found((["1", "2", "3", "4"], "2"), (COLOURS, "0"), (COLOURS, "3")) == [2, 0, 3]


def test_a_mixed_column_is_read_kind_by_kind():
    assert found((COLOURS, "A"), (COLOURS, "green"), (COLOURS, 0), (COLOURS, "3")) == [0, 1, 0, 3]


@pytest.mark.parametrize(
    ("cell", "answer", "words"),
    [
        (["B", "A", "D", "C"], "A", r"row 2: answer 'A' has two readings: letter \(choice 0.*text \(choice 1"),
        ([1, 2, 3, 4], 3, r"row 2: answer 3 has two readings: text \(choice 2.*zero_based \(choice 3"),
    ],
)
def test_answers_with_two_readings_are_refused_with_their_row(cell, answer, words):
    rows = ((["A", "B"], "A"), (cell, answer))
    with pytest.raises(SelfExplainError, match=words):
        found(*rows)
    form = "text" if isinstance(answer, int) else "letter"
    assert found(*rows, form=form)[1] == (2 if answer == 3 else 0)


def test_letters_win_if_they_fit_more_rows_than_texts():
    assert found((["B", "A", "D", "C"], "A"), (COLOURS, "D")) == [0, 3]

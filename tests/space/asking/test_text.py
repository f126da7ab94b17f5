"""Checks of texts and indices, and how texts are displayed."""

import pytest

from asking.text import check_index, check_text, shorten, visible
from selfexplain.errors import SelfExplainError


@pytest.mark.parametrize(
    ("text", "limit", "message"),
    [
        ("  ", None, "The text is empty"),
        ("word " * 400, None, "2,000 characters; the limit is 1,200"),
        ("a b " * 60, None, "tokens; the limit is 128"),
        ("The capital of Peru", 3, "tokens; the limit is 3"),
    ],
)
def test_empty_and_long_texts_are_errors(show, text, limit, message):
    with pytest.raises(SelfExplainError, match=message):
        check_text(show, text, limit)


def test_a_valid_text_is_returned_as_tokens(show):
    assert [token.strip() for token in check_text(show, "The capital of Peru")] == [
        "<s>",
        "The",
        "capital",
        "of",
        "Peru",
    ]


@pytest.mark.parametrize(("index", "expected"), [(0, 0), (4, 4), (-1, 4), (-5, 0)])
def test_an_index_counts_from_either_end(index, expected):
    assert check_index(index, 5, "token") == expected


@pytest.mark.parametrize("index", [5, -6])
def test_an_index_out_of_range_is_an_error(index):
    with pytest.raises(SelfExplainError, match=f"There is no token {index}. Give a number from 0 to 4"):
        check_index(index, 5, "token")


def test_tokens_and_texts_are_displayed_in_short():
    assert [visible(token) for token in (" a", "\n", "  ")] == ["a", "↵", "␣"]
    assert shorten("one two three", 8) == "one two …" and shorten("one\ntwo") == "one"

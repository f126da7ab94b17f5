"""Descriptions in the small grammar are written, and parsed back."""

import numpy as np
import pytest

from selfexplain.features.description import MAX_TOKENS, Description, clean

CLASSES = {"countries": {"France", "Chile", "Japan"}}


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("the word Paris", Description(("Paris",))),
        ("the words Paris, Berlin, Rome", Description(("Paris", "Berlin", "Rome"))),
        ("the words comma, period quotation mark", Description((",", '."'))),
        ("the words newline, space", Description(("\n", " "))),
        ('the words "comma", Newton', Description(("comma", "Newton"))),
        ('the word "€"', Description(("€",))),
        ("numbers", Description(name="numbers")),
        ("words after punctuation", Description(name="punctuation", after=True)),
        ("words after the word of", Description(("of",), after=True)),
        ("words after the words of, in", Description(("of", "in"), after=True)),
        ("countries", Description(("Chile", "France", "Japan"), "countries")),
    ],
)
def test_descriptions_are_written_and_parsed_as_plain_english(text, description):
    assert str(description) == text
    assert Description.parse(f" {text}\n", CLASSES) == description


def test_every_written_description_is_parsed_back():
    rng = np.random.default_rng(0)
    phrases = ["comma", "question mark", "the word", "space", ", ", "words after "]
    alphabet = [*"ab .,:;?!\"'-()\n\t\\/<é€�0", *phrases]
    for _ in range(3000):
        tokens = ["".join(rng.choice(alphabet, rng.integers(0, 4))) for _ in range(rng.integers(1, MAX_TOKENS + 1))]
        description = Description(tuple(map(clean, tokens)), after=bool(rng.integers(2)))
        assert Description.parse(str(description)) == description, str(description)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris",
        "the word",
        "the word ",
        "the words a,b",
        "countries",
        "words after",
        "the words a, b, c, d, e, f",
        'the word "a',
        "the word Paris and more",
        "the words  a, b",
        "words after words after the word a",
        'the word "a"',
    ],
)
def test_text_outside_the_grammar_is_not_parsed(text):
    assert Description.parse(text) is None

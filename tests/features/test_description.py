"""Descriptions in the small grammar are written, and parsed back."""

from itertools import product

import numpy as np
import pytest

from selfexplain.features.description import CONNECTORS, MAX_TOKENS, Description, clean

CLASSES = {"countries": {"France", "Chile", "Japan"}}


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("the word Paris", Description.of_tokens(("Paris",))),
        ("the words Paris, Berlin, Rome", Description.of_tokens(("Paris", "Berlin", "Rome"))),
        ("the words comma, period quotation mark", Description.of_tokens((",", '."'))),
        ("the words newline, space", Description.of_tokens(("\n", " "))),
        ('the words "comma", Newton', Description.of_tokens(("comma", "Newton"))),
        ('the word "€"', Description.of_tokens(("€",))),
        ("numbers", Description.of_class("numbers", {})),
        ("words after punctuation", Description.of_class("punctuation", {}, after=True)),
        ("words after the word of", Description.of_tokens(("of",), after=True)),
        ("words after the words of, in", Description.of_tokens(("of", "in"), after=True)),
        ("countries", Description.of_class("countries", CLASSES)),
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
        description = Description.of_tokens(tuple(map(clean, tokens)), after=bool(rng.integers(2)))
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


@pytest.mark.parametrize(
    ("text", "form", "complexity"),
    [
        ("the word Paris", "token", 0),
        ("words that end with ing", "ending", 0),
        ("words that begin with un", "beginning", 0),
        ("parts of words", "class", 0),
        ("words in capital letters", "class", 0),
        ("forms of the word go", "family", 0),
        ("kinds of motor vehicle", "kind", 0),
        ("nouns for animals", "category", 0),
        ("first words of lines", "place", 0),
        ('texts with the words bank, "a near b"', "topic", 2),
        ("words up to 3 tokens after the word not", "soon after token", 1),
        ("words after nouns for people", "after category", 1),
        ("the word bank near kinds of water", "token near", 2),
        ("kinds of body of water near the word bank", "kind near", 2),
        ('the words a, "x except y" except numbers', "tokens except", 3),
        ("capitalised words that are also first words of sentences", "class that are also", 2),
    ],
)
def test_every_form_has_one_written_form(text, form, complexity):
    description = Description.parse(text)
    assert str(description) == text
    assert (description.form, description.complexity) == (form, complexity)


@pytest.mark.parametrize("connector", CONNECTORS)
def test_every_claim_can_have_every_condition(connector):
    claims = (
        "the word a",
        'the words near, "a near b"',
        "countries",
        "nouns for animals",
        "forms of the word go",
        "kinds of body of water",
        "words after kinds of animal",
        "words that end with near",
        "parts of words",
        "words in parentheses",
        "texts with the words a, except",
    )
    for left, right in product(claims, repeat=2):
        description = Description.parse(f"{left}{connector}{right}", CLASSES)
        assert (str(description.claim), description.connector, str(description.condition)) == (left, connector, right)


@pytest.mark.parametrize(
    "text",
    [
        "words that end with",
        "words that end with 3",
        "words that end with ING",
        "forms of the word Go",
        "kinds of ",
        "texts with the words a, b, c, d, e, f",
        "the word a near",
        " near the word a",
        "the word a near the word b near the word c",
        "words after first words of lines",
        "kinds of water near kinds of animal near kinds of plant",
        "words up to 4 tokens after the word a",
    ],
)
def test_other_text_with_words_of_the_grammar_is_not_parsed(text):
    assert Description.parse(text) is None


@pytest.mark.parametrize(
    ("text", "matched"),
    [
        ("words that end with ed", [" walk", "ed", " jumped"]),
        ("words that begin with wa", [" walk", "ed"]),
        ("words after words that end with ed", [" and", " "]),
        ("words up to 3 tokens after the word and", [" then", " jumped", " "]),
        ("words that end with ed near the word I", [" walk", "ed", " jumped"]),
        ("words that end with ed except words that begin with ju", [" walk", "ed"]),
        ("words that end with ed that are also parts of words", ["ed"]),
        ("texts with the word then", ["I", " walk", "ed", " and", " then", " jumped", " "]),
        ("texts with the word other", []),
        ("the word I near the word I", []),
    ],
)
def test_matches_of_each_form(text, matched):
    tokens = ["I", " walk", "ed", " and", " then", " jumped", " "]
    found = Description.parse(text).matches(tokens)
    assert [token for token, m in zip(tokens, found, strict=True) if m] == matched


def test_near_reaches_ten_tokens():
    tokens = ["a", *["x"] * 9, "b", "b"]
    assert Description.parse("the word b near the word a").matches(tokens).tolist() == [False] * 10 + [True, False]

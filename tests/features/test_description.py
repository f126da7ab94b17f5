"""Descriptions in the small grammar: write, parse, simulate, score, and find the best one for activations."""

from itertools import permutations

import numpy as np
import pytest

from selfexplain.features.describers.offline import describe
from selfexplain.features.description import MAX_TOKENS, Description, clean
from selfexplain.features.simulate import score

CLASSES = {"countries": {"France", "Chile", "Japan"}}


def exemplars(rule, n=40, seed=0):
    """Windows of random words, on which `rule(previous, word)` gives the activation."""
    rng = np.random.default_rng(seed)
    words = np.array(["of", "in", "France", "Chile", "Japan", "Paris", "cat", ",", ".", "7", "dog", "The"])
    windows = [rng.choice(words, 12).tolist() for _ in range(n)]
    return [
        {
            "tokens": window,
            "activations": np.array([rule(*pair) for pair in zip([None, *window], window, strict=False)], np.float32),
        }
        for window in windows
    ]


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


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (lambda previous, word: 3.0 * (word == "Paris"), "the word Paris"),
        (lambda previous, word: {"cat": 2.0, "dog": 1.5}.get(word, 0.0), "the words cat, dog"),
        (lambda previous, word: float(word in CLASSES["countries"]), "countries"),
        (lambda previous, word: float(word in ",."), "punctuation"),
        (lambda previous, word: float(previous == "of"), "words after the word of"),
        (lambda previous, word: float(previous in CLASSES["countries"]), "words after countries"),
    ],
)
def test_the_describer_finds_the_rule_behind_the_activations(rule, text):
    [(description, correlation)] = describe(exemplars(rule), CLASSES)
    assert str(description) == text
    assert correlation == pytest.approx(score(description, exemplars(rule)))
    assert score(description, exemplars(rule, seed=1)) > 0.9


def test_without_its_class_the_describer_lists_the_tokens():
    rule = exemplars(lambda previous, word: float(word in CLASSES["countries"]))
    [(description, _)] = describe(rule)
    assert str(description) in {f"the words {', '.join(order)}" for order in permutations(CLASSES["countries"])}


def test_the_simpler_of_two_similar_descriptions_wins():
    [(description, _)] = describe(exemplars(lambda previous, word: {"cat": 3.0, "dog": 0.4}.get(word, 0.0)))
    assert str(description) == "the word cat"

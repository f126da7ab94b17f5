from itertools import permutations

import numpy as np
import pytest

from selfexplain.features.describers.offline import describe
from selfexplain.features.description import MAX_TOKENS, Description, clean
from selfexplain.features.simulate import detect, score, simulate

CLASSES = {"countries": {"France", "Chile", "Japan"}}


def exemplars(rule, n=40, seed=0):
    """Windows of random words; `rule(previous, word)` gives the activation."""
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
def test_forms_read_as_plain_english(text, description):
    assert str(description) == text
    assert Description.parse(f" {text}\n", CLASSES) == description


def test_every_description_is_read_back():
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
def test_text_outside_the_grammar_is_no_description(text):
    assert Description.parse(text) is None


def test_simulation_is_one_on_matching_tokens_and_zero_elsewhere():
    tokens = [" The", "France", ",", "cat", " 12", "The"]
    assert simulate(Description(("The",)), tokens).tolist() == [1, 0, 0, 0, 0, 1]
    assert simulate(Description(("The",), after=True), tokens).tolist() == [0, 1, 0, 0, 0, 0]
    assert simulate(Description(name="punctuation"), tokens).tolist() == [0, 0, 1, 0, 0, 0]
    assert simulate(Description(name="numbers"), tokens).tolist() == [0, 0, 0, 0, 1, 0]
    assert simulate(Description(name="capitalised words"), tokens).tolist() == [1, 1, 0, 0, 0, 1]
    assert simulate(Description.of_class("countries", CLASSES), tokens).tolist() == [0, 1, 0, 0, 0, 0]


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


def test_a_class_of_the_caller_needs_the_caller():
    rule = exemplars(lambda previous, word: float(word in CLASSES["countries"]))
    [(description, _)] = describe(rule)
    assert str(description) in {f"the words {', '.join(order)}" for order in permutations(CLASSES["countries"])}


def test_the_simpler_form_wins_a_near_tie():
    [(description, _)] = describe(exemplars(lambda previous, word: {"cat": 3.0, "dog": 0.4}.get(word, 0.0)))
    assert str(description) == "the word cat"


def test_score_is_the_correlation_over_all_tokens_together():
    data = [
        {"tokens": ["a", "b", "c"], "activations": [2.0, 0.0, 1.0]},
        {"tokens": ["b", "b"], "activations": [0.0, 0.5]},
    ]
    expected = np.corrcoef([1, 0, 0, 0, 0], [2, 0, 1, 0, 0.5])[0, 1]
    assert score(Description(("a",)), data) == pytest.approx(expected)
    assert score(Description(("z",)), data) == 0.0
    assert score(None, data) == 0.0
    assert score(Description(("a",)), [{"tokens": ["a", "b"], "activations": [1.0, 1.0]}]) == 0.0


def test_detection_is_balanced_accuracy_over_windows():
    data = [{"tokens": ["a"], "activations": [1.0]}] * 3 + [{"tokens": ["b"], "activations": [1.0]}]
    data += [{"tokens": ["c"], "activations": [0.01]}, {"tokens": ["a"], "activations": [0.0]}]
    assert detect(Description(("a",)), data) == pytest.approx((0.75 + 0.5) / 2)
    assert detect(None, data) == detect(Description(("a",)), data[:4]) == 0.5
    assert detect(Description(name="numbers"), data) == 0.5

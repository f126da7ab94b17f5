"""The offline describer finds the description that correlates best with activations."""

from itertools import permutations

import numpy as np
import pytest

from selfexplain.features.describers.offline import WORD_FORMS, describe, grammar_of, uses_wordnet
from selfexplain.features.description import Description
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
@pytest.mark.parametrize("grammar", ["words", "full"])
def test_the_describer_finds_the_rule_behind_the_activations(rule, text, grammar):
    [(description, correlation)] = describe(exemplars(rule), CLASSES, grammar=grammar)
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


SENTENCES = ['The cat walked and jumped . "Stop" she said', "A dog in Chile ( warm ) looked at seven cats ; they ran"]


@pytest.mark.parametrize(
    "text",
    [
        "words that end with ed",
        "words in quotation marks",
        "words in parentheses",
        "words up to 3 tokens after the word dog",
        "words after words that end with ed",
        "texts with the word dog",
        "capitalised words except countries",
        "words that end with ed near the word dog",
    ],
)
def test_the_describer_finds_every_form(text):
    description = Description.parse(text, CLASSES)
    rng = np.random.default_rng(0)
    words = [" " + word for sentence in SENTENCES for word in sentence.split()] + [
        " France",
        " The",
        " Both",
        " Old",
        " so",
    ]
    windows = [{"tokens": rng.choice(words, 12).tolist()} for _ in range(60)]
    windows += [
        {"tokens": [' "', *window["tokens"][:3], '"', *window["tokens"][3:], " (", " cat", ")"]} for window in windows
    ]
    for window in windows:
        window["activations"] = description.matches(window["tokens"]).astype(np.float32)
    found, correlation = describe(windows, CLASSES)[0]
    assert str(found) == text
    assert correlation == pytest.approx(1.0)
    assert score(found, windows) == pytest.approx(1.0)


def test_candidates_have_different_forms_and_no_duplicates():
    candidates = describe(exemplars(lambda previous, word: {"cat": 2.0, "dog": 1.5}.get(word, 0.0)), CLASSES, n=12)
    forms = [description.form for description, _ in candidates]
    assert max(forms.count(form) for form in set(forms)) == 2
    assert len({str(description) for description, _ in candidates}) == 12


def test_the_correlations_of_all_candidates_are_those_of_the_simulator():
    data = exemplars(lambda previous, word: float(previous == "of") + 0.5 * (word == "cat"))
    for description, correlation in describe(data, CLASSES, n=200):
        assert correlation == pytest.approx(score(Description.parse(str(description), CLASSES), data)), str(description)


def test_the_small_grammar_has_lists_classes_and_the_words_after_them():
    data = exemplars(lambda previous, word: float(previous == "of") + 0.5 * word.endswith("t"))
    candidates = [description for description, _ in describe(data, CLASSES, n=200, grammar="words")]
    assert {entry.form for entry in candidates} == set(WORD_FORMS)
    assert len(candidates) == 2 * (5 + 3 + 1)  # lists of 1 to 5 tokens, 3 built-in classes and 1 of the caller
    assert grammar_of(map(str, candidates), CLASSES) == "words"
    assert grammar_of(["the word of", "words that end with ing"], CLASSES) == "full"
    assert grammar_of(["not expressible", "free text"], CLASSES) == "words"


def test_descriptions_with_families_or_semantic_classes_use_wordnet():
    assert uses_wordnet(["the word cat", "the word bank near kinds of water"], {})
    assert uses_wordnet(["words after forms of the word run"], {}) and uses_wordnet(["nouns for animals"], {})
    assert not uses_wordnet(["words that end with ing", "countries", "not expressible"], CLASSES)

"""Words, sentences, quotations and lists are found in tokenised text."""

import pytest

from selfexplain.features.grammar.text import Text

STORY = ['"', "Go", "!", '"', " he", " walk", "ed", " (", "fast", ")", " home", ".", "\n", "-", " The", " end", "."]


def chosen(text, matches):
    return [token for token, matched in zip(text.tokens, matches, strict=True) if matched]


@pytest.mark.parametrize(
    ("place", "tokens"),
    [
        ("in_quotations", ["Go", "!"]),
        ("in_parentheses", ["fast"]),
        ("starts_sentence", [" he", " The"]),
        ("ends_sentence", ["Go", " home", " end"]),
        ("starts_line", [" The"]),
        ("in_list_items", ["-", " The", " end", "."]),
        ("continues", ["ed"]),
    ],
)
def test_places_in_a_text(place, tokens):
    text = Text(STORY)
    assert chosen(text, getattr(text, place)) == tokens


def test_tokens_of_one_word_share_its_text():
    assert Text([" un", "break", "able", ",", " isn", "'", "t"]).words == ["unbreakable"] * 3 + [",", "isn", "'", "t"]


def test_without_white_space_each_token_is_a_word():
    text = Text(["the", "cat"])
    assert text.words == ["the", "cat"]
    assert not text.continues.any()


@pytest.mark.parametrize(
    ("tokens", "place", "matched"),
    [
        (['"', "open"], "in_quotations", []),
        (["a", ")", "b"], "in_parentheses", []),
        (["(", "a", "[", "b", "]", "c", ")", "d"], "in_parentheses", ["a", "[", "b", "]", "c"]),
        (["(", "a", ")(", "b"], "in_parentheses", ["a", "b"]),
        (["\n", "1", ".", " one", "\n", "two"], "in_list_items", ["1", ".", " one"]),
        (["\n", "1", " one"], "in_list_items", []),
        (["?", " ", '"', "Yes"], "starts_sentence", ["Yes"]),
        (["wal", "ks", "."], "ends_sentence", ["ks"]),
        (["the", " wal", "ks", "."], "ends_sentence", [" wal", "ks"]),
        ([], "starts_line", []),
        ([], "in_quotations", []),
    ],
)
def test_places_at_the_edges(tokens, place, matched):
    text = Text(tokens)
    assert chosen(text, getattr(text, place)) == matched

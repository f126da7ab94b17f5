"""Layers, token ids and dictionaries of feature description."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.builders.dictionaries import choose_layers, corpus_token_ids


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        (None, list(range(12))),
        ((3, -1), [3, 11]),
        ((0.0, 0.5, 1.0), [0, 6, 11]),
        (("8-10", 3), [8, 9, 10, 3]),
        (("0.5-0.75",), [6, 7, 8]),
        ((2, "1-3"), [2, 1, 3]),
    ],
)
def test_layers_are_chosen_by_index_fraction_and_range(layers, chosen):
    assert choose_layers(layers, 12) == chosen


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((12,), "12"),
        ((1.5,), "layers contains 1.5. Expected a fraction"),
        (("9-3",), "layers contains '9-3'. Expected a range"),
        (("all",), "layers contains 'all'. Expected a range"),
        (("8-15",), "12"),
        ((), "layers"),
    ],
)
def test_layers_that_do_not_exist_raise_an_error(layers, message):
    with pytest.raises(SelfExplainError, match=message):
        choose_layers(layers, 12)


def test_texts_are_truncated_and_repeated_texts_are_dropped(target):
    texts = ["the cat sees a dog", "the cat sees a dog", "the cat sees", "a dog"]
    assert [len(ids) for ids in corpus_token_ids(target, texts, 4)] == [4, 3]

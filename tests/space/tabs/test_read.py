"""Event handlers of the Read tab."""

import pytest

TEXT = "The capital of Peru is"


@pytest.fixture
def read(show):
    from tabs import read

    return read


def test_a_text_is_read_at_the_picked_token_and_layer(read):
    token, tokens, layers, answer = read.read(TEXT, 2, 4)
    assert token == 4 and tokens.count('aria-pressed="true"') == 1 and "Peru" in answer
    assert layers.count("<button") == 5


@pytest.mark.parametrize("token", [-1, 99])
def test_a_token_past_the_end_of_a_shortened_text_becomes_the_last_one(read, token):
    assert read.read(TEXT, 2, token)[0] == 5


def test_an_error_replaces_the_answer(read):
    assert "the limit is 128" in read.read("a b " * 60, 0, 0)[-1]


@pytest.mark.parametrize(("layer", "nearest"), [(0, 0), (3, 3), (7, 4)])
def test_an_example_at_an_untrained_layer_is_read_at_the_nearest_trained_one(read, layer, nearest):
    assert read.nearest_layer(layer) == nearest

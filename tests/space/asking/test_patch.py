"""Questions about patches, and the map of all patches."""

import pytest

from asking.patch import ask_map, ask_patch
from selfexplain.errors import SelfExplainError


def ask_example(show, index):
    example = show.examples["activation_patching"][index]
    return ask_patch(show, example.text, example.source, example.layers, example.token, example.source_token)


def test_the_notes_of_the_curated_examples_are_true(show):
    for index in (0, 1):
        trial = ask_example(show, index)
        assert trial.explanation.correct and trial.explanation.changed and not trial.control.correct
    ignored = ask_example(show, 2)
    assert ignored.before == ignored.after and not ignored.explanation.correct


def test_the_map_agrees_with_single_patches(show):
    example = show.examples["activation_patching"][0]
    result = ask_map(show, example.text, example.source, example.source_token)
    assert len(result.actual) == len(result.predicted) == len(result.tokens) and len(result.blocks) == 4
    for token, block in ((4, 0), (4, 1), (len(result.tokens) - 1, 3)):
        trial = ask_patch(show, example.text, example.source, result.blocks[block], token, token)
        assert result.actual[token][block] == (trial.before != trial.after)
        assert (result.predicted[token][block] > 0.5) == trial.explanation.changed


def test_texts_of_different_lengths_share_one_vector(show):
    text, source = "The capital of Peru is", "In Japan people speak"
    result = ask_map(show, text, source, 2)
    assert len(result.actual) == len(show.tokens(text))
    trial = ask_patch(show, text, source, result.blocks[0], 3, 2)
    assert result.actual[3][0] == (trial.before != trial.after)


@pytest.mark.parametrize("layers", [(), (0, 9), (0, 2), (0, 0), (3, 2), (-1,), (7, 8), (0,) * 2000])
def test_layers_that_are_not_consecutive_are_an_error(show, layers):
    with pytest.raises(SelfExplainError, match="Give consecutive layers in ascending order, from 0 to 7"):
        ask_patch(show, "The capital", "Peru", layers, 0, 0)


def test_a_source_token_out_of_range_is_an_error(show):
    with pytest.raises(SelfExplainError, match="There is no source token 9"):
        ask_patch(show, "The capital", "Peru", (0,), 0, 9)


def test_a_text_that_is_too_long_for_the_map_is_an_error(show):
    with pytest.raises(SelfExplainError, match="the limit is 64"):
        ask_map(show, "a b " * 40, "Peru", 0)

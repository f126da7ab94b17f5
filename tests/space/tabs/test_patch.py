"""Event handlers of the Patch and Map tabs."""

import pytest

TEXT = "The capital of Peru is"


@pytest.fixture
def patch(show):
    from tabs import patch

    return patch


def test_a_patch_shows_both_texts_the_blocks_and_the_answer(patch):
    token, source_token, tokens, source_tokens, layers, answer = patch.patch(TEXT, "In Japan", 1, 4, 99)
    assert (token, source_token) == (4, 2)
    assert tokens.count("<button") == 6 and source_tokens.count("<button") == 3
    assert layers.count("<button") == 4 and "Measured" in answer


def test_an_error_replaces_the_answer(patch):
    assert "The text is empty" in patch.patch(" ", TEXT, 0, 0, 0)[-1]
    assert "The text is empty" in patch.patch_map(" ", TEXT, 0)


def test_the_map_covers_every_token_and_block(patch):
    assert patch.patch_map(TEXT, TEXT, 0).count("<button") == 2 * 6 * 4


@pytest.mark.parametrize(("layers", "block"), [((0, 1), 0), ((3,), 1), ((6, 7), 3), ((99,), 0)])
def test_layers_are_mapped_to_the_block_that_contains_the_first(patch, layers, block):
    assert patch.block_of(layers) == block


def test_texts_are_checked_before_they_are_tokenised(patch, monkeypatch):
    from showcase import Showcase

    tokenised = []
    tokens = Showcase.tokens
    monkeypatch.setattr(Showcase, "tokens", lambda self, text: tokenised.append(len(text)) or tokens(self, text))
    assert patch._have_equally_many_tokens("The capital of Peru", "The capital of Chile") is True
    assert patch._have_equally_many_tokens("The capital of Peru", "x" * 4_000_000) is False
    assert max(tokenised) < 100

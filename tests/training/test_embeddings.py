"""Tokens that a base cannot distinguish."""

import torch

from selfexplain.training.embeddings import indistinct_tokens


def test_tokens_with_equal_directions_are_indistinct():
    embeddings = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    embeddings[7], embeddings[2] = embeddings[9], 3 * embeddings[9]
    assert indistinct_tokens(embeddings, [1, 2, 5, 9]) == [2, 9]


def test_tokens_with_opposite_directions_are_distinct():
    embeddings = torch.eye(4)
    embeddings[3] = -embeddings[0]
    assert indistinct_tokens(embeddings, [0, 1, 2, 3]) == []


def test_every_chunk_of_a_large_vocabulary_is_checked():
    embeddings = torch.eye(1100)
    embeddings[1099] = embeddings[1098]
    assert indistinct_tokens(embeddings, range(1100)) == [1098, 1099]

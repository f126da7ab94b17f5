"""Pairs of activations from two models that read the same texts."""

import pytest
import torch

from selfexplain.errors import SelfExplainError
from selfexplain.target.capture import capture
from selfexplain.target.load import load_target
from selfexplain.training.pairing import paired_activations

TEXTS = ["The capital of France is Paris.", "Once there was a small dog near the river.", "The yen is a currency."]


def test_layers_are_paired_by_relative_depth(target, wide_dir):
    base = load_target(wide_dir)  # 3 layers of width 48, the same tokenizer
    of_target, of_base = paired_activations(target, base, TEXTS[:1], [0, 2, 3], 1000)
    ids = torch.tensor([target.tokenizer(TEXTS[0])["input_ids"]])
    # <s> has no characters, so it has no position in the text.
    torch.testing.assert_close(of_target, capture(target.model, ids, [0, 2, 3])[:, 0, 1:])
    torch.testing.assert_close(of_base, capture(base.model, ids, [0, 1, 2])[:, 0, 1:])


def test_activations_are_paired_with_embeddings(target):
    of_target, embedded = paired_activations(target, target, TEXTS[:1], [1, 2], 1000, "embedding")
    ids = torch.tensor([target.tokenizer(TEXTS[0])["input_ids"]])[:, 1:]
    expected = target.model.get_input_embeddings()(ids)[0].detach()
    torch.testing.assert_close(embedded, expected.expand(2, -1, -1))
    assert of_target.shape == embedded.shape == (2, ids.shape[1], 32)


def test_texts_are_read_until_there_are_enough_tokens(target):
    n_first = len(target.tokenizer(TEXTS[0])["input_ids"]) - 1
    enough, more = (paired_activations(target, target, TEXTS, [0], n)[0].shape[1] for n in (n_first, n_first + 1))
    assert enough == n_first < more


def test_texts_without_a_shared_position_are_refused(target):
    with pytest.raises(SelfExplainError, match=r"The corpus has no text.* set adapter\.fit_tokens=0"):
        paired_activations(target, target, [""], [0], 10)

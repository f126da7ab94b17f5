"""SelfIE: its prompt, its scales, and descriptions from free words."""

import logging
from types import SimpleNamespace

import pytest
import torch

from selfexplain.evaluation.selfie import as_description, is_possible, selfie


@pytest.mark.parametrize(
    ("words", "description"),
    [
        ('Paris, the "city" of Paris.', "the words Paris, the, city, of"),
        ("rain", "the word rain"),
        ("a b c d e f g", "the words a, b, c, d, e"),
        ("...", ""),
    ],
)
def test_free_words_become_a_list(words, description):
    assert as_description(words) == description


def test_the_prompt_contains_the_vector_twice_and_the_target_answers(target):
    vector = torch.randn(target.d_model, generator=torch.Generator().manual_seed(0))
    baseline = selfie(target, 5.0)
    assert baseline.model.language_model is target.model
    (answer,) = baseline.answer([{"activations": vector[None].numpy(), "activation_layers": [1]}])
    free = baseline.model.ask(None, [vector], [1], max_new_tokens=16)
    assert answer.text == as_description(free.text)
    assert len(baseline.model.ask(None, [vector], [1], max_new_tokens=1).prompt.split("<activation>")) == 3


def test_a_target_with_too_few_blocks_has_no_selfie_baseline(target, caplog):
    with caplog.at_level(logging.WARNING, logger="selfexplain"):
        assert not is_possible(SimpleNamespace(name="shallow", n_layers=1))
    assert "it writes at block 1, and shallow has 1 blocks" in caplog.text
    assert is_possible(target) and selfie(target, 2.0).model.config.injection["scale"] == 2

"""SelfIE: the question as its contract puts it."""

import logging
from types import SimpleNamespace

import pytest
import torch

from selfexplain.evaluation.selfie import as_description, is_possible, selfie


@pytest.mark.parametrize(
    ("said", "description"),
    [
        ('Paris, the "city" of Paris.', "the words Paris, the, city, of"),
        ("rain", "the word rain"),
        ("a b c d e f g", "the words a, b, c, d, e"),
        ("...", ""),
    ],
)
def test_free_words_become_a_list(said, description):
    assert as_description(said) == description


def test_it_asks_the_target_itself_with_the_vector_at_both_places(target):
    vector = torch.randn(target.d_model, generator=torch.Generator().manual_seed(0))
    asked = selfie(target, 5.0)
    assert asked.asked.language_model is target.model
    (answer,) = asked.answer([{"activations": vector[None].numpy(), "activation_layers": [1]}])
    free = asked.asked.ask(None, [vector], [1], max_new_tokens=16)
    assert answer.text == as_description(free.text)
    assert len(asked.asked.ask(None, [vector], [1], max_new_tokens=1).prompt.split("<activation>")) == 3


def test_a_target_without_the_block_that_it_writes_at_has_no_such_baseline(target, caplog):
    with caplog.at_level(logging.WARNING, logger="selfexplain"):
        assert not is_possible(SimpleNamespace(name="shallow", n_layers=1))
    assert "writes at block 1, and shallow has 1" in caplog.text
    assert is_possible(target) and selfie(target, 2.0).asked.config.injection["scale"] == 2

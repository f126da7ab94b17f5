"""Readers of feature descriptions."""

import numpy as np
import pytest
import torch

from selfexplain.evaluation.readers import Material, NotAvailable, readers_of
from selfexplain.evaluation.readers.features import N_VALIDATION, _validation
from selfexplain.features.description import Description, clean
from selfexplain.target.capture import capture
from selfexplain.target.tokens import token_text

TEXT = "The capital of France is Paris and the language of France is French."
READERS = readers_of("feature_description")


@pytest.fixture
def rows(target):
    """One row per token of a text: its vector at layer 0, and windows in which only this token is active."""
    ids = target.encode(TEXT)
    vectors = capture(target.model, torch.tensor([ids]), [0])[0, 0].numpy()
    tokens = [target.tokenizer.decode([token]) for token in ids[1:]]
    window = [{"tokens": tokens, "activations": [0.0] * len(tokens)}]
    return [
        {
            "activations": vectors[None, n + 1],
            "activation_layers": [0],
            "exemplars": window,
            "scoring_exemplars": [{"tokens": tokens, "activations": [float(t == token) for t in tokens]}],
            "description": "words that end with ing",
            "token": clean(token),
        }
        for n, token in enumerate(tokens)
    ]


@pytest.fixture
def material(target, rows):
    return Material(rows, rows, {"names": {"France", "Paris"}}, 0, lambda: target)


def test_the_token_lens_names_the_token_of_a_residual_stream(material, rows):
    fitted = READERS["token_lens"](material)
    named = [Description.parse(text).subjects for text in fitted.answer(rows)]
    assert np.mean([row["token"] in tokens for row, tokens in zip(rows, named, strict=True)]) > 0.9
    assert fitted.settings["k"] == len(named[0]) and fitted.settings["ridge"] > 0


@pytest.mark.parametrize("n_pool", [1, 400])
def test_the_describer_writes_about_what_the_token_lens_reads(material, rows, monkeypatch, n_pool):
    """Also if the random tokens next to them do not include them, as in large vocabularies."""
    monkeypatch.setattr("selfexplain.evaluation.readers.features.N_POOL", n_pool)
    fitted = READERS["token_lens_grammar"](material)
    described = [Description.parse(text, material.classes) for text in fitted.answer(rows)]
    assert np.mean([row["token"] in d.subjects for row, d in zip(rows, described, strict=True)]) > 0.5


def test_the_logit_lens_names_the_tokens_with_the_highest_logits(material, rows, target):
    answers = READERS["logit_lens"](material).answer(rows[:2])
    hidden = torch.from_numpy(rows[0]["activations"])
    with torch.no_grad():
        best = int(target.model.lm_head(target.model.model.norm(hidden)).argmax())
    assert Description.parse(answers[0]).subjects[0] == clean(token_text(target.tokenizer, best))


def test_rows_about_one_vector_get_one_answer(material, rows):
    answers = READERS["token_lens"](material).answer([rows[0], rows[3], rows[0]])
    assert answers[0] == answers[2] != answers[1]


def test_readers_choose_on_validation_rows(material, rows, target):
    assert len(_validation(Material(rows, rows * 3))) == min(len(rows), N_VALIDATION)
    without = Material(rows, [], {}, 0, lambda: target)
    for fit in READERS.values():
        with pytest.raises(NotAvailable, match="no validation rows"):
            fit(without)


def test_rows_without_exemplars_cannot_be_read(rows, target):
    bare = [{key: row[key] for key in ("activations", "activation_layers", "scoring_exemplars")} for row in rows]
    with pytest.raises(NotAvailable, match="no column exemplars"):
        READERS["token_lens"](Material(bare, bare, {}, 0, lambda: target))

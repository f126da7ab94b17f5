"""Test that the shipped models reach the accuracies that their recipe requires."""

import json

import pytest
import torch
from safetensors import safe_open

from selfexplain import bundled
from selfexplain.target.load import load_target
from selfexplain.tiny.train import check

MODELS = ("selfexplain/tiny", "selfexplain/tiny-sibling")
MEGABYTE = 1_000_000


@pytest.mark.parametrize("name", MODELS)
def test_a_target_recalls_its_facts_and_follows_some_hints(name):
    target = load_target(name)
    assert target.model.dtype == torch.float32
    measured = check(target.model, target.tokenizer)
    assert measured["recall"] >= 0.95
    assert 0.3 <= measured["hint_following"] <= 0.7
    promised = json.loads((bundled.WEIGHTS / bundled.NAMES[name] / "promises.json").read_text())
    assert measured == pytest.approx(promised, abs=0.01)


def test_the_sibling_has_different_weights():
    first, second = (load_target(name) for name in MODELS)
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()
    similarity = torch.cosine_similarity(
        first.model.get_input_embeddings().weight.flatten(), second.model.get_input_embeddings().weight.flatten(), dim=0
    )
    assert similarity.abs() < 0.5


def test_weights_are_small_float16_safetensors():
    files = list(bundled.WEIGHTS.rglob("*"))
    assert sum(file.stat().st_size for file in files if file.is_file()) < 6 * MEGABYTE
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl")]
    for name in MODELS:
        with safe_open(bundled.WEIGHTS / bundled.NAMES[name] / "model.safetensors", "pt") as weights:
            names = weights.keys()
            assert {weights.get_slice(key).get_dtype() for key in names} == {"F16"}
    explainer = bundled.WEIGHTS / bundled.NAMES["selfexplain/tiny-selfexplainer"]
    assert sum(file.stat().st_size for file in explainer.rglob("*") if file.is_file()) < MEGABYTE


def test_the_shipped_explainer_answers_all_three_questions():
    from selfexplain import SelfExplainerForCausalLM

    explainer = SelfExplainerForCausalLM.from_pretrained("selfexplain/tiny-selfexplainer")
    text = "The capital of France is"
    vector = explainer.capture(text, layers=[0])[0, 4]
    assert explainer.explain_feature(vector, layer=0).text
    assert explainer.explain_patch(text, vector, layers=[0, 1], position=4).parsed
    question = (
        "Question: What is the capital of Chile?\nParis, Oslo, Santiago or Rome?\nHint: The answer is Oslo.\nAnswer:"
    )
    assert explainer.explain_ablation(question).parsed

"""Patches resumed at their block equal full forward passes, and say nothing where nothing was replaced."""

import logging

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, MistralConfig, Qwen3Config

from selfexplain.target.capture import capture
from selfexplain.target.patching import clean_run, exact_method, patched_logits, patched_logits_plain

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
}
CONFIGS = [
    LlamaConfig(**SMALL),
    Qwen3Config(**SMALL, head_dim=8),
    MistralConfig(**SMALL, sliding_window=6),
    Gemma2Config(**SMALL, head_dim=8, sliding_window=6),
    GPT2Config(n_embd=32, n_layer=4, n_head=4, vocab_size=96),
]


@pytest.fixture(params=CONFIGS, ids=lambda config: config.model_type)
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(request.param).eval()


def runs(model, n=3, length=12):
    torch.manual_seed(1)
    return clean_run(model, torch.randint(0, 96, (n, length))), clean_run(model, torch.randint(0, 96, (n, length)))


def test_capture_equals_hidden_states(model):
    ids = torch.randint(0, 96, (2, 7))
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(capture(model, ids, [0, 2]), torch.stack([hidden[1], hidden[3]]))


@pytest.mark.parametrize("layers", [(0,), (1, 2), (3,)])
def test_the_method_chosen_equals_one_full_forward_a_patch(model, layers):
    clean, source = runs(model)
    prompts = torch.tensor([0, 0, 1, 2, 2, 2])
    positions = torch.tensor([3, 11, 5, 2, 7, 4])
    vectors = source.hidden[list(layers)].mean(0)[prompts, positions]
    method = exact_method(model, clean, prompts, positions, vectors, layers)
    together = method(model, clean, prompts, positions, vectors, layers)
    for row in range(len(prompts)):
        only = slice(row, row + 1)
        alone = patched_logits_plain(model, clean, prompts[only], positions[only], vectors[only], layers)
        torch.testing.assert_close(together[only], alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together, clean.logits[prompts], atol=1e-4)


def test_llama_resumes(caplog):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[0]).eval()
    clean, source = runs(model)
    arguments = (torch.tensor([0, 1]), torch.tensor([3, 4]), source.hidden[1][:2, 3], (1, 2))
    with caplog.at_level(logging.WARNING):
        assert exact_method(model, clean, *arguments) is patched_logits
    assert not caplog.records


def test_a_model_that_cannot_resume_falls_back_and_says_so(caplog):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[0]).eval()
    clean, source = runs(model)
    broken = type(clean)(clean.input_ids, clean.hidden, [keys + 1 for keys in clean.keys], clean.values, clean.logits)
    with caplog.at_level(logging.WARNING):
        method = exact_method(model, broken, torch.tensor([0]), torch.tensor([3]), source.hidden[1][:1, 3], (1,))
    assert method is patched_logits_plain
    assert "not exact here" in caplog.text


@pytest.mark.parametrize("method", [patched_logits, patched_logits_plain])
def test_patching_an_activation_with_itself_is_a_no_op(method):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[0]).eval()
    clean, _ = runs(model)
    prompts, positions = torch.tensor([0, 1, 2]), torch.tensor([0, 5, 11])
    own = clean.hidden[2][prompts, positions]
    torch.testing.assert_close(method(model, clean, prompts, positions, own, (2,)), clean.logits, atol=1e-5, rtol=1e-5)

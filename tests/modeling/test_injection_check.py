"""Loading refuses explainers whose answers would be fluent but unrelated to their vectors."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from battery import tiny_model
from explainers import copied, edit, trained
from selfexplain.errors import SelfExplainError
from selfexplain.modeling import injection_check
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM, SelfExplainerModel

AT_BLOCK = InjectionConfig(site="block_output", block=1, norm="unit", scale=3.0, markers=False)
LINEAR = {"kind": "linear", "layers": [0, 1, 2]}


@pytest.fixture(scope="module")
def published(tokenizer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("published")
    base = tiny_model("llama")
    base.lm_head.weight.data *= 10  # so that its answers are confident
    base.save_pretrained(directory / "base")
    tokenizer.save_pretrained(directory / "base")
    trained(directory / "base", injection=AT_BLOCK, adapter=LINEAR).save_pretrained(directory / "saved")
    return directory


@pytest.fixture
def saved(published, tmp_path):
    return copied(published, tmp_path)


def load(directory, **options):
    return SelfExplainerForCausalLM.from_pretrained(directory, **options)


def refused(directory, message, **options):
    with pytest.raises(SelfExplainError, match=f"Injection check: .*{message}"):
        load(directory, **options)
    assert load(directory, check_injection=False, **options) is not None


def test_an_unchanged_explainer_passes_with_one_forward_pass(saved, monkeypatch):
    explainer = load(saved)
    passes = []
    forward = SelfExplainerForCausalLM.forward
    monkeypatch.setattr(
        SelfExplainerForCausalLM, "forward", lambda self, **inputs: passes.append(1) or forward(self, **inputs)
    )
    explainer.check_injection()
    assert len(passes) == 1


def test_lost_lora_weights_are_detected(saved):
    edit(saved / "config.json", lambda c: c.update(lora=None))
    refused(saved, "log-probabilities of the saved answers changed")
    explainer = load(saved, check_injection=False)
    with pytest.raises(SelfExplainError, match="log-probabilities of the saved answers changed"):
        explainer.check_injection()


def test_missing_injection_is_detected(saved, monkeypatch):
    monkeypatch.setattr(SelfExplainerModel, "_write", lambda self, hidden, factor=1.0: hidden)
    refused(saved, "log-probabilities of the saved answers changed")


def test_vectors_without_effect_are_detected(target_dir, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(SelfExplainerModel, "_write", lambda self, hidden, factor=1.0: hidden)
    with caplog.at_level(logging.WARNING):
        trained(target_dir, injection=AT_BLOCK).save_pretrained(tmp_path / "dead")
    assert "loading it will fail" in caplog.text
    refused(tmp_path / "dead", "zero and shuffled vectors give the same log-probabilities")


def test_a_different_numbering_of_layers_is_detected(saved):
    edit(saved / "config.json", lambda c: c["adapter"].update(layers=[1, 2, 0]))
    refused(saved, "log-probabilities of the saved answers changed")


def test_a_different_block_is_detected(saved):
    edit(saved / "config.json", lambda c: c["injection"].update(block=2))
    refused(saved, "log-probabilities of the saved answers changed")


def test_a_tokenizer_that_splits_the_placeholder_is_detected(target_dir, tmp_path):
    injection = InjectionConfig(placeholder=" capital", markers=False)
    trained(target_dir, injection=injection).save_pretrained(tmp_path / "saved")
    tokenizer = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = []
    (tmp_path / "saved" / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(tmp_path / "saved", "the tokenizer encodes golden question 0")


def test_a_changed_base_is_detected(saved):
    file = saved.parent / "base" / "model.safetensors"
    save_file({name: weight * 1.05 for name, weight in load_file(file).items()}, file, {"format": "pt"})
    refused(saved, "log-probabilities of the saved answers changed")


def test_changed_adapter_weights_are_detected(saved):
    file = saved / "activation_adapter.safetensors"
    weights = load_file(file)
    weights["weight"][1] = weights["weight"][1].T.contiguous()
    save_file(weights, file)
    refused(saved, "log-probabilities of the saved answers changed")


LOW = {
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)},
    "nf4": {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")},
}


@pytest.mark.parametrize("precision", LOW)
def test_a_base_in_low_precision_passes_with_its_larger_tolerance(saved, precision):
    explainer = load(saved, **LOW[precision])
    assert injection_check.precision(explainer.language_model) == precision
    now = injection_check.score(explainer, explainer.golden.rows, explainer.golden.answers)
    gap = (now - explainer.golden.log_probs).abs().mean()
    assert 0 < gap < injection_check.TOLERANCE[precision]


def test_an_explainer_without_golden_vectors_loads_with_one_warning(saved, caplog):
    (saved / injection_check.JSON_FILE).unlink()
    load(saved)
    assert [record.levelname for record in caplog.records if "golden" in record.message] == ["WARNING"]


def test_an_explainer_whose_tasks_have_no_vectors_is_checked_without_them(target_dir, tmp_path):
    explainer = trained(target_dir, tasks=["input_ablation"])
    explainer.save_pretrained(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert not any(row["activations"] for row in loaded.golden_rows)
    edit(tmp_path / "saved" / "config.json", lambda c: c.update(lora=None))
    refused(tmp_path / "saved", "log-probabilities of the saved answers changed")


def test_tokens_around_a_slot_that_differ_from_the_contract_are_detected(target_dir):
    tokenizer = AutoTokenizer.from_pretrained(target_dir)
    before, after = (tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in "[]")
    contract = InjectionConfig(markers=False, template="Say [{activation}] in words.", neighbour_ids=(before, after))
    base = AutoModelForCausalLM.from_pretrained(target_dir)
    explainer = SelfExplainerForCausalLM.from_base(base, tokenizer, contract)
    explainer.check_injection()  # the questions follow the template
    explainer.model.injection = replace(contract, neighbour_ids=(after, before))
    with pytest.raises(SelfExplainError, match=r"Row 0: the tokens around a vector .* contract expects"):
        explainer.check_injection()

"""Third-party explainers load under the contract that they were trained with.

The formula of every family is implemented a second time here, with plain hooks on the bare model, and must give equal
logits.
"""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from battery import tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.modeling.third_party.contracts import CONTRACTS
from third_party_checkpoints import (
    QUESTION,
    RESERVED,
    VERBALIZER_TEMPLATE,
    chat_ids,
    explainer_logits,
    peft_model,
    positions_of,
    reference_logits,
    sidecar,
    vectors,
    write_oracle_config,
    write_sidecar,
)


def assert_same(explainer, question, activations, layers, ids, logits, tmp_path):
    """The explainer has the reference token ids and logits, `ask` answers with them, and a saved copy does too."""
    actual_ids, actual_logits = explainer_logits(explainer, question, activations, layers)
    assert actual_ids == ids
    torch.testing.assert_close(actual_logits, logits, atol=1e-5, rtol=0)
    answer = explainer.ask(question, activations, layers, max_new_tokens=1)
    first = explainer.processor.tokenizer.decode(logits[-1].argmax(), skip_special_tokens=True)
    assert answer.text == first.strip()
    explainer.save_pretrained(tmp_path / "saved")
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path / "saved")
    assert loaded.config.injection == explainer.config.injection
    loaded_ids, loaded_logits = explainer_logits(loaded, question, activations, layers)
    assert loaded_ids == ids
    torch.testing.assert_close(loaded_logits, actual_logits, atol=1e-6, rtol=0)


# ---------------------------------------------------------------- Activation Oracles


def oracle_reference(architecture, directory, tokenizer, activations, layers, operation, scale=1.0):
    """Token ids and logits: one block of placeholders per layer, vectors scaled to the norm of the residual stream."""
    counts = {layer: list(layers).count(layer) for layer in layers}
    text = "".join(f"Layer: {layer}\n" + " ?" * n + " \n" for layer, n in counts.items()) + QUESTION
    ids = chat_ids(tokenizer, text)
    (slot,) = tokenizer(" ?", add_special_tokens=False)["input_ids"]

    def write(h, v):
        matched = scale * h.norm() * v / v.norm()
        return h + matched if operation == "add" else matched

    slots = positions_of(ids, slot)[: len(activations)]
    return ids, reference_logits(peft_model(architecture, directory), ids, activations, slots, 1, write)


@pytest.mark.parametrize(
    ("name", "changes", "operation"),
    [
        ("oracle", {"created_at_utc": "2025-12-01T08:00:00+00:00"}, "add"),
        ("oracle", {"created_at_utc": "2025-10-01T08:00:00+00:00", "steering_coefficient": 2.0}, "replace"),
    ],
    ids=["add", "replace"],
)
def test_activation_oracle(save_adapter, tokenizer, tmp_path, name, changes, operation):
    directory = save_adapter("qwen3", name)
    write_oracle_config(directory, **changes)
    explainer = SelfExplainerForCausalLM.from_third_party(directory)
    scale = changes.get("steering_coefficient", 1.0)
    assert explainer.config.injection["operation"] == operation
    assert explainer.config.injection["layers"] == ((1,), (2,))
    layers = [2, 2, 2]
    ids, logits = oracle_reference("qwen3", directory, tokenizer, vectors(3), layers, operation, scale)
    assert_same(explainer, QUESTION, vectors(3), layers, ids, logits, tmp_path)


def test_activation_oracle_of_several_layers(save_adapter, tokenizer, tmp_path):
    directory = save_adapter("llama", "oracle")
    write_oracle_config(directory, act_layer_combinations=[[0, 2, 3]], created_at_utc="2026-01-01T00:00:00+00:00")
    explainer = SelfExplainerForCausalLM.from_third_party(str(directory))
    layers = [0, 0, 2, 2, 3, 3]
    ids, logits = oracle_reference("llama", directory, tokenizer, vectors(6), layers, "add")
    assert_same(explainer, QUESTION, vectors(6), layers, ids, logits, tmp_path)


@pytest.mark.parametrize("operation", ["add", "replace"])
def test_activation_oracle_without_a_config(save_adapter, tokenizer, tmp_path, operation):
    directory = save_adapter("llama", "someones_lora")
    with pytest.raises(SelfExplainError, match="Which family is it"):
        SelfExplainerForCausalLM.from_third_party(directory)
    explainer = SelfExplainerForCausalLM.from_third_party(directory, family=f"activation_oracle_{operation}")
    ids, logits = oracle_reference("llama", directory, tokenizer, vectors(2), [1, 1], operation)
    assert_same(explainer, QUESTION, vectors(2), [1, 1], ids, logits, tmp_path)


# ---------------------------------------------------------------- natural-language autoencoders


@pytest.mark.parametrize(
    ("architecture", "scale"),
    [("llama", 150.0), ("llama", None), ("gemma2", "sqrt_d_model"), ("gemma3_text", 80)],
)
def test_nla_verbalizer(save_base, tokenizer, tmp_path, architecture, scale):
    directory = save_base(architecture, "nla-av")
    content = sidecar(tokenizer, extraction={"injection_scale": scale})
    content["prompt_templates"] = {"actor": VERBALIZER_TEMPLATE}  # the alternative key
    write_sidecar(directory, content)
    explainer = SelfExplainerForCausalLM.from_third_party(directory)
    assert explainer.config.injection["layers"] == ((2,),)
    assert explainer.config.target["model"] == "someone/base"

    # The base scales its embeddings, but the vector is written after that and is not scaled again.
    ids = chat_ids(tokenizer, VERBALIZER_TEMPLATE.format(injection_char="㈎"))
    slots = positions_of(ids, content["tokens"]["injection_token_id"])
    norm = {None: None, "sqrt_d_model": math.sqrt(32)}.get(scale, scale)

    def write(h, v):
        return v if norm is None else norm * v / v.norm()

    logits = reference_logits(tiny_model(architecture), ids, vectors(1), slots, 0, write, site="input")
    assert_same(explainer, None, vectors(1), [2], ids, logits, tmp_path)


def test_nla_community_adapter(save_adapter, tokenizer, tmp_path):
    directory = save_adapter("qwen3", "easy-nla")
    content = sidecar(tokenizer, kind="nla_dataset", extraction={"d_model": 32, "layer_index": 2})
    del content["d_model"], content["extraction_layer_index"], content["role"]
    write_sidecar(directory, content)
    explainer = SelfExplainerForCausalLM.from_third_party(directory)
    ids = chat_ids(tokenizer, VERBALIZER_TEMPLATE.format(injection_char="㈎"))
    slots = positions_of(ids, content["tokens"]["injection_token_id"])
    model = peft_model("qwen3", directory)
    logits = reference_logits(model, ids, vectors(1), slots, 1, lambda h, v: h + h.norm() * v / v.norm())
    assert_same(explainer, None, vectors(1), [2], ids, logits, tmp_path)


# ---------------------------------------------------------------- Transluce


def marked(tokenizer, prompt):
    """Token ids of a plain prompt with the markers and the placeholder spelled out, and the position of the latter."""
    begin, end, slot = RESERVED
    ids = tokenizer(prompt.format(f"{begin}{slot}{end}"))["input_ids"]
    return ids, positions_of(ids, tokenizer.convert_tokens_to_ids(slot))


def with_default_slot(ids, slots, tokenizer):
    """Token ids with a question mark in each slot. The embedding of a slot's token is never read."""
    (mark,) = tokenizer("?", add_special_tokens=False)["input_ids"]
    return [mark if position in slots else each for position, each in enumerate(ids)]


def test_transluce_whole_model(save_base, tokenizer, tmp_path):
    directory = save_base("llama", "features_explain_llama_llama")
    explainer = SelfExplainerForCausalLM.from_third_party(directory, family="transluce")
    ids, slots = marked(tokenizer, "At layer 2, {} encodes ")
    logits = reference_logits(tiny_model("llama"), ids, vectors(1), slots, 0, lambda h, v: v, site="input")
    assert_same(explainer, None, vectors(1), [2], with_default_slot(ids, slots, tokenizer), logits, tmp_path)


def test_transluce_architecture_is_recognised(save_base):
    directory = save_base("llama", "features_explain_llama_llama")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"architectures": ["ContinuousLlama"]}))
    explainer = SelfExplainerForCausalLM.from_third_party(directory)
    assert explainer.config.injection["family"] == "transluce"


def test_transluce_with_one_projection_per_layer(save_base, tokenizer, tmp_path):
    directory = save_base("llama", "features_explain_wide_llama")
    weights = load_file(directory / "model.safetensors")
    maps = torch.randn(6, 32, 24, generator=torch.Generator().manual_seed(2))
    weights |= {f"embed_projs.{layer}.weight": each.contiguous() for layer, each in enumerate(maps)}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    explainer = SelfExplainerForCausalLM.from_third_party(directory, family="transluce")
    assert (explainer.config.target["n_layers"], explainer.config.target["d_model"]) == (6, 24)
    ids, slots = marked(tokenizer, "At layer 5, {} encodes ")
    activations = vectors(1, d=24)
    logits = reference_logits(tiny_model("llama"), ids, activations, slots, 0, lambda h, v: maps[5] @ v, site="input")
    assert_same(explainer, None, activations, [5], with_default_slot(ids, slots, tokenizer), logits, tmp_path)


def train_embeddings(model):
    torch.manual_seed(3)
    model.get_input_embeddings().weight.data += 0.1 * torch.randn_like(model.get_input_embeddings().weight)
    model.get_output_embeddings().weight.data += 0.1


def add_tokens(model):
    torch.manual_seed(3)
    model.resize_token_embeddings(520, mean_resizing=False)


@pytest.mark.parametrize(
    ("change", "merged"),
    [(lambda model: None, False), (train_embeddings, True), (add_tokens, True)],
    ids=["unchanged", "trained", "resized"],
)
def test_transluce_adapter_with_embeddings_and_head(save_adapter, tokenizer, tmp_path, change, merged):
    directory = save_adapter("qwen3", "features_explain_qwen3_qwen3", change, save_embedding_layers=True)
    assert any("embed_tokens" in key for key in load_file(directory / "adapter_model.safetensors"))
    explainer = SelfExplainerForCausalLM.from_third_party(directory, family="transluce")
    assert explainer.config.merged == merged
    model = tiny_model("qwen3")
    change(model)
    model = PeftModel.from_pretrained(model, directory).eval()
    ids, slots = marked(tokenizer, "At layer 1, {} encodes ")
    logits = reference_logits(model, ids, vectors(1), slots, 0, lambda h, v: v, site="input")
    assert_same(explainer, None, vectors(1), [1], with_default_slot(ids, slots, tokenizer), logits, tmp_path)
    assert (tmp_path / "saved" / "lora").exists() != merged


def test_transluce_embeddings_saved_in_lower_precision_are_dropped(save_adapter):
    directory = save_adapter("qwen3", "features_explain_qwen3_qwen3", save_embedding_layers=True)
    weights = load_file(directory / "adapter_model.safetensors")
    rounded = {key: w if "lora" in key else w.bfloat16() for key, w in weights.items()}
    save_file(rounded, directory / "adapter_model.safetensors")
    explainer = SelfExplainerForCausalLM.from_third_party(directory, family="transluce")
    assert not explainer.config.merged
    expected = tiny_model("qwen3").get_input_embeddings().weight
    assert torch.equal(explainer.get_input_embeddings().weight, expected)


def test_transluce_markers_that_the_tokenizer_lacks_can_be_passed(save_base):
    directory = save_base("llama", "features_explain")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (directory / name).read_text().replace("reserved_special_token", "different_token")
        (directory / name).write_text(text)
    with pytest.raises(SelfExplainError, match="Which tokens are before and after the vector"):
        SelfExplainerForCausalLM.from_third_party(directory, family="transluce")
    contract = replace(CONTRACTS["transluce"], neighbour_ids=(7, 8), chat=False)
    explainer = SelfExplainerForCausalLM.from_third_party(directory, contract=contract)
    rows = tiny_model("llama").get_input_embeddings().weight[[7, 8]]
    torch.testing.assert_close(explainer.model.activation_adapter.markers.data, rows.data)


# ---------------------------------------------------------------- LatentQA, SelfIE


def test_latentqa(save_adapter, tokenizer, tmp_path):
    directory = save_adapter("llama", "latentqa")
    explainer = SelfExplainerForCausalLM.from_third_party(directory, family="latentqa")
    activations = vectors(3)
    # The chat template trims the user's text, so the first placeholder has no space before it.
    conversation = ("user", "? ? ?"), ("reflect", "Sure, I've analyzed the assistant."), ("user", QUESTION)
    text = "<s>" + "".join(
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>" for role, content in conversation
    )
    ids = tokenizer(text + "<|start_header_id|>reflect<|end_header_id|>\n\n", add_special_tokens=False)["input_ids"]
    first = len(tokenizer("<s><|start_header_id|>user<|end_header_id|>\n\n", add_special_tokens=False)["input_ids"])
    slots = list(range(first, first + 3))
    assert tokenizer.decode([ids[slot] for slot in slots]) == "? ? ?"
    logits = reference_logits(peft_model("llama", directory), ids, activations, slots, 0, lambda h, v: v)
    assert_same(explainer, QUESTION, activations, [2, 2, 2], ids, logits, tmp_path)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_selfie(save_base, tokenizer, tmp_path, scale):
    contract = replace(CONTRACTS["selfie"], scale=scale)
    explainer = SelfExplainerForCausalLM.from_third_party(save_base("llama"), family="selfie", contract=contract)
    pieces = ["What is the meaning of the word '", "'? The meaning of the word '", "' is "]
    encoded = [tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in pieces]
    (slot,) = tokenizer("X", add_special_tokens=False)["input_ids"]
    ids = [1, *encoded[0], slot, *encoded[1], slot, *encoded[2]]
    activations = vectors(1)
    twice = [activations[0], activations[0]]
    slots = positions_of(ids, slot)
    logits = reference_logits(tiny_model("llama"), ids, twice, slots, 1, lambda h, v: scale * v, site="input")
    assert_same(explainer, None, activations, [2], ids, logits, tmp_path)


def test_selfie_leaves_the_model_its_own_target(save_base):
    directory = save_base("llama")
    explainer = SelfExplainerForCausalLM.from_third_party(directory, family="selfie")
    assert not explainer.config.merged and explainer.config.target["model"] == str(directory)


# ---------------------------------------------------------------- arguments


def test_an_explicit_contract_overrides_the_files(save_adapter):
    directory = save_adapter("llama", "oracle_addition")
    write_oracle_config(directory)
    contract = InjectionConfig(site="block_output", block=2, norm="unit", scale=3.0, markers=False)
    explainer = SelfExplainerForCausalLM.from_third_party(directory, contract=contract)
    assert explainer.model.injection == contract


def test_the_base_can_be_passed(save_adapter, save_base, tmp_path):
    directory = save_adapter("llama", "oracle_addition")
    settings = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": "/nowhere/at/all"})
    )
    with pytest.raises(SelfExplainError, match="base="):
        SelfExplainerForCausalLM.from_third_party(directory, family="activation_oracle")
    base = str(save_base("llama"))
    explainer = SelfExplainerForCausalLM.from_third_party(directory, family="activation_oracle", base=base)
    assert explainer.config.base_model_name_or_path == str(tmp_path / "base")


def test_an_adapter_that_names_no_base_is_refused(save_adapter):
    directory = save_adapter("llama", "oracle_addition")
    settings = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    with pytest.raises(SelfExplainError, match=r"adapter_config\.json does not name a base model"):
        SelfExplainerForCausalLM.from_third_party(directory, family="activation_oracle")


def test_a_base_for_a_whole_model_is_refused(save_base):
    with pytest.raises(SelfExplainError, match=r"whole model, not an adapter, so base= does not apply"):
        SelfExplainerForCausalLM.from_third_party(save_base("llama"), family="selfie", base="selfexplain/tiny")


def test_a_layer_that_the_target_does_not_have_is_refused(save_adapter):
    directory = save_adapter("llama", "oracle_addition")
    write_oracle_config(directory, act_layer_combinations=[[1], [30]])
    with pytest.raises(SelfExplainError, match="reads layer 30, but its target has layers 0 to 3"):
        SelfExplainerForCausalLM.from_third_party(directory)


def test_hub_id_and_directory_load_the_same_explainer(save_adapter, tmp_path):
    directory = save_adapter("llama", "oracle_addition")
    write_oracle_config(directory)
    cached = tmp_path / "cache" / "models--someone--oracle_addition"
    shutil.copytree(directory, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    by_id = SelfExplainerForCausalLM.from_third_party("someone/oracle_addition", cache_dir=tmp_path / "cache")
    by_directory = SelfExplainerForCausalLM.from_third_party(directory)
    assert by_id.config.injection == by_directory.config.injection
    logits = [explainer_logits(each, QUESTION, vectors(2), [1, 1])[1] for each in (by_id, by_directory)]
    assert torch.equal(*logits)


def test_the_contract_is_logged(save_base, caplog):
    caplog.set_level("INFO", logger="selfexplain")
    SelfExplainerForCausalLM.from_third_party(save_base("llama"), family="selfie")
    assert "selfie: v at the input of block 1" in caplog.text


def test_the_code_of_the_documentation_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[3] / "docs" / "third_party_explainers.md").read_text()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(block, names)
    assert names["loaded"].config.injection["family"] == "activation_oracle_replace"
    assert names["answer"].injection["operation"] == "add"

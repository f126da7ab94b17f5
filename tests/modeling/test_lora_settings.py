"""`adapter_config.json` can add LoRA weights and nothing else: it cannot change the base, fill the memory or hang."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from battery import tiny_model
from explainers import copied, edit, trained
from selfexplain.errors import SelfExplainError
from selfexplain.modeling import lora, lora_settings
from selfexplain.modeling.lora_settings import lora_config, read_lora_settings
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.target.load import load_target

IDS = torch.tensor([[1, 40, 50, 60]])


@pytest.fixture(scope="module")
def published(tokenizer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("published")
    tiny_model("llama").save_pretrained(directory / "base")
    tokenizer.save_pretrained(directory / "base")
    trained(directory / "base").save_pretrained(directory / "saved")
    return directory


@pytest.fixture
def saved(published, tmp_path):
    return copied(published, tmp_path)


def load(directory):
    return SelfExplainerForCausalLM.from_pretrained(directory, check_injection=False)


SLOW = r"(\w|\w|\.|[a-z])+(\w|\.)+\d{9}"
REFUSED = {
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the weights of the base"),
    "fast pissa": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
    "upper case": ({"init_lora_weights": "OLoRA"}, "init_lora_weights is 'OLoRA'"),
    "corda": ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
    "loftq": ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
    "replication": ({"layer_replication": [[0, 4], [0, 4]]}, "sets layer_replication, which is not supported"),
    "biases": ({"bias": "all"}, "bias is 'all', which changes the biases of the base"),
    "biases of LoRA modules": ({"bias": "lora_only"}, "bias is 'lora_only'"),
    "an unknown option": ({"rewrite_base": True}, "sets rewrite_base, which is not supported"),
    "kasa": ({"kasa_config": {"x": 1}}, "sets kasa_config"),
    "a different method": ({"peft_type": "IA3"}, "peft_type is 'IA3', expected LORA"),
    "no method": ({"peft_type": None}, "peft_type is None, expected LORA"),
    "a huge rank": ({"r": 10**9}, "adapter_config.json: r is '1000000000': input should be less than or equal"),
    "a rank as text": ({"r": "4"}, "r is '4': input should be a valid integer"),
    "no rank": ({"r": 0}, "r is '0': input should be greater"),
    "an infinite factor": ({"lora_alpha": float("inf")}, "lora_alpha is 'inf'"),
    "modules as a number": ({"target_modules": 5}, "target_modules is '5'"),
    "a slow pattern": ({"target_modules": SLOW}, "takes more than"),
    "a slow pattern of ranks": ({"rank_pattern": {SLOW: 4}}, "takes more than"),
    "an invalid pattern": ({"target_modules": "(q_proj"}, "in target_modules is not valid"),
    "a pattern of layers": ({"layers_pattern": "(a+)+", "layers_to_transform": [0]}, r"layers_pattern contains '\(a"),
    "many modules": ({"target_modules": [f"m{i}" for i in range(5000)]}, "target_modules has 5000 entries"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_could_change_the_base_are_refused(tmp_path, case, monkeypatch):
    monkeypatch.setattr(lora_settings, "PATTERN_SECONDS", 0.2)
    change, message = REFUSED[case]
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]} | change))
    with pytest.raises(SelfExplainError, match=message):
        lora_config(read_lora_settings(path, "adapter_config.json"), tiny_model("llama"), "adapter_config.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the weights of the base"),
        ({"modules_to_save": ["lm_head"]}, "sets modules_to_save, which replaces weights of the base"),
        ({"r": 60_000}, r"adapter_model.safetensors has a different shape for base_model"),
        ({"rank_pattern": {"q_proj": 60_000}}, "has a different shape for"),
        ({"target_modules": ["nothing"]}, "does not fit the base"),
        ({"trainable_token_indices": [10**6]}, "does not fit the base"),
    ],
)
def test_an_explainer_with_such_settings_is_refused(saved, change, message):
    edit(saved / "lora" / "adapter_config.json", lambda c: c.update(change))
    with pytest.raises(SelfExplainError, match=message):
        load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"init_lora_weights": "gaussian"},
        {"target_modules": r".*\.(q|k|v|o|up|gate|down)_proj"},
        {"alpha_pattern": {r"layers\.\d+\.self_attn\..*": 8}},
        {"loftq_config": {"loftq_bits": 4}, "megatron_core": "os", "auto_mapping": {"parent_library": "os"}},
    ],
)
def test_settings_that_only_describe_the_weights_load_with_the_same_logits(published, saved, change):
    edit(saved / "lora" / "adapter_config.json", lambda c: c.update(change))
    explainer, expected = load(saved), load(published / "saved")
    target = load_target(str(published / "base")).model
    with torch.no_grad():
        torch.testing.assert_close(explainer.language_model(IDS).logits, expected.language_model(IDS).logits)
        with explainer.as_target() as base:
            assert torch.equal(base(IDS).logits, target(IDS).logits)


def test_a_changed_base_is_detected_after_loading(saved, monkeypatch):
    load_state = lora.load_lora_state

    def change(explainer, weights, source):
        load_state(explainer, weights, source)
        explainer.language_model.model.layers[2].mlp.up_proj.base_layer.weight.data[0, 0] += 1e-3

    monkeypatch.setattr(lora, "load_lora_state", change)
    with pytest.raises(SelfExplainError, match=r"changed the base itself \(model.layers.2.mlp.up_proj.weight and"):
        load(saved)


def test_changed_logits_are_detected_after_loading(saved, monkeypatch):
    load_state = lora.load_lora_state

    def change(explainer, weights, source):
        load_state(explainer, weights, source)
        explainer.language_model.model.layers[2].register_forward_hook(lambda module, args, output: output * 1.1)

    monkeypatch.setattr(lora, "load_lora_state", change)
    with pytest.raises(SelfExplainError, match=r"changed the base itself \(the logits\)"):
        load(saved)


def test_rank_and_factor_patterns_match_like_those_of_peft(tmp_path):
    base = tiny_model("llama")
    fields = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "up_proj"]}
    fields |= {"rank_pattern": {r"layers\.[01]\..*q_proj": 2, "up_proj": 3}, "alpha_pattern": {"^model.*up_proj": 5}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
    config = lora_config(read_lora_settings(tmp_path / "adapter_config.json", "file"), base, "file")
    base.add_adapter(config)
    ranks = {name: module.r["default"] for name, module in base.named_modules() if hasattr(module, "lora_A")}
    assert [ranks[f"model.layers.{i}.self_attn.q_proj"] for i in range(4)] == [2, 2, 4, 4]
    assert [ranks[f"model.layers.{i}.mlp.up_proj"] for i in range(4)] == [3] * 4
    module = base.model.layers[3].mlp.up_proj
    assert module.scaling["default"] == 5 / 3


def test_dora_weights_are_loaded(published, tmp_path):
    explainer = SelfExplainerForCausalLM.from_base(str(published / "base"))
    from peft import LoraConfig

    explainer.language_model.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], use_dora=True))
    explainer.config.lora = {
        "rank": 4,
        "alpha": 8,
        "dropout": 0.0,
        "target_modules": ["q_proj"],
        "trainable_tokens": [],
    }
    for name, parameter in explainer.language_model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.05
    explainer.save_pretrained(tmp_path / "dora")
    weights = load_file(tmp_path / "dora" / "lora" / "adapter_model.safetensors")
    assert any("magnitude" in name for name in weights)
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path / "dora")
    with torch.no_grad():
        torch.testing.assert_close(loaded.language_model(IDS).logits, explainer.language_model(IDS).logits)


def test_lora_weights_are_float32_on_a_base_in_low_precision(saved):
    loaded = SelfExplainerForCausalLM.from_pretrained(saved, dtype=torch.bfloat16)
    dtypes = {parameter.dtype for name, parameter in loaded.named_parameters() if "lora_" in name}
    assert dtypes == {torch.float32}
    assert all(p.requires_grad for name, p in loaded.language_model.named_parameters() if "lora_" in name)
    assert not any(p.requires_grad for name, p in loaded.language_model.named_parameters() if "lora_" not in name)


def test_a_base_that_is_an_adapter_or_an_explainer_is_refused(saved):
    shutil.copy(saved / "lora" / "adapter_config.json", saved.parent / "base")
    with pytest.raises(SelfExplainError, match=r"contains adapter_config.json, so it is a LoRA adapter"):
        load(saved)
    (saved.parent / "base" / "adapter_config.json").unlink()
    edit(saved / "config.json", lambda c: c.update(base_model_name_or_path=str(saved)))
    with pytest.raises(SelfExplainError, match="is an explainer, expected a plain causal language model"):
        load(saved)

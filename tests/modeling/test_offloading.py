"""Explainers with weights in other places than their device give the same logits, or are refused by name."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from transformers import AutoModelForCausalLM

from battery import tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.base import load_base
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

CPU = torch.device("cpu")
INPUTS = {
    "input_ids": torch.tensor([[1, 40, 50, 60, 70, 80]]),
    "activations": torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(0)),
    "activation_mask": torch.tensor([[True]]),
    "activation_layers": torch.tensor([[1]]),
    "activation_positions": torch.tensor([[2]]),
    "marker_positions": torch.tensor([[[1, 3]]]),
}
SITES = [("llama", "embedding", 0), ("bloom", "embedding", 0), ("llama", "block_output", 1)]
DEVICE_MAP = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"} | {
    f"model.layers.{index}": "cpu" for index in range(4)
}


def explainer_of(architecture, site, block, base=None, tokenizer=None):
    contract = InjectionConfig(site=site, block=block)
    adapter = {"kind": "linear", "layers": [1]}
    base = base or tiny_model(architecture)
    return SelfExplainerForCausalLM.from_base(base, tokenizer, injection=contract, adapter=adapter)


@torch.no_grad()
def logits(model):
    return model(**INPUTS).logits


@pytest.mark.parametrize("where", ["cpu", "cpu with buffers", "disk"])
@pytest.mark.parametrize("site", SITES)
def test_an_offloaded_explainer_gives_the_same_logits(site, where, tmp_path):
    explainer = explainer_of(*site)
    expected = logits(explainer)
    if where == "disk":
        disk_offload(explainer, str(tmp_path), CPU)
    else:
        cpu_offload(explainer, CPU, offload_buffers=where == "cpu with buffers")
    assert torch.equal(logits(explainer), expected)
    assert explainer.device == explainer.model.device == CPU


@pytest.mark.parametrize("module", ["model.embed_tokens", "model.layers.0", "model.layers.1"])
def test_a_base_with_modules_on_disk_gives_the_same_answers(module, tokenizer, tmp_path):
    expected = explainer_of("llama", "block_output", 1, tokenizer=tokenizer)
    tiny_model("llama").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", device_map=DEVICE_MAP | {module: "disk"}, offload_folder=str(tmp_path / "disk")
    )
    explainer = explainer_of("llama", "block_output", 1, base=base, tokenizer=tokenizer)
    assert torch.equal(logits(explainer), logits(expected)) and explainer.device == CPU
    vector = INPUTS["activations"][0, 0]
    assert explainer.explain_feature(vector, 1).text == expected.explain_feature(vector, 1).text
    if module == "model.embed_tokens":
        with pytest.raises(SelfExplainError, match="embeddings of LlamaForCausalLM are offloaded"):
            explainer.capture("The capital of France", [1])
    else:
        args = ("The capital of France", [0, 1, 2])
        assert torch.equal(explainer.capture(*args), expected.capture(*args))


@pytest.mark.parametrize("architecture", ["bloom", "gpt2"])
def test_embeddings_on_disk_that_are_also_the_head_are_refused_by_name(architecture, tmp_path):
    """transformers alone cannot load such a base either."""
    base = tiny_model(architecture)
    base.save_pretrained(tmp_path / "base")
    devices = {f"transformer.{name}": "cpu" for name, _ in base.transformer.named_children()} | {"lm_head": "cpu"}
    devices["transformer.word_embeddings" if architecture == "bloom" else "transformer.wte"] = "disk"
    with pytest.raises(SelfExplainError, match="shares its weights with another part, such as the input embeddings"):
        load_base(str(tmp_path / "base"), device_map=devices, offload_folder=str(tmp_path / "disk"))


@pytest.mark.parametrize("module", ["model.embed_tokens", "model.layers.0", "model.layers.1"])
def test_a_saved_explainer_with_lora_loads_with_modules_on_disk(module, tokenizer, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "base")
    options = {"adapter": {"kind": "linear", "layers": [1]}, "lora": {"rank": 2, "alpha": 8.0}}
    explainer = SelfExplainerForCausalLM.from_base(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tokenizer, **options
    )
    for name, weight in explainer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    explainer.save_pretrained(tmp_path / "saved")
    loaded = SelfExplainerForCausalLM.from_pretrained(
        tmp_path / "saved", device_map=DEVICE_MAP | {module: "disk"}, offload_folder=str(tmp_path / "disk")
    )
    assert torch.equal(logits(loaded), logits(explainer))

"""Load targets, refuse models that are not causal language models, and check texts and layers."""

import shlex

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from explainers import with_own_code
from selfexplain.errors import SelfExplainError
from selfexplain.target.load import load_target, target_shape


def test_a_model_directory_is_loaded(target_dir):
    target = load_target(str(target_dir))
    assert (target.n_layers, target.d_model, target.context_length) == (4, 32, 256)


@pytest.mark.parametrize(
    "model",
    [
        T5ForConditionalGeneration(T5Config(vocab_size=32, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)),
        BertForMaskedLM(
            BertConfig(vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
        ),
    ],
    ids=["t5", "bert"],
)
def test_a_model_that_is_not_a_causal_language_model_raises_an_error(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(SelfExplainError, match="not a decoder-only causal language model"):
        load_target(str(tmp_path))


@pytest.mark.parametrize("name", ["./nowhere", "nobody/nothing-of-this-name"])
def test_a_missing_target_raises_an_error(name):
    with pytest.raises(SelfExplainError, match=name.strip(".")):
        load_target(name)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", None),
        ("model.safetensors", b"cut off"),
        ("tokenizer.json", None),
        ("config.json", b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": "wide"}'),
    ],
)
def test_a_damaged_model_directory_raises_an_error(target_dir, file, content):
    path = target_dir / file
    path.unlink() if content is None else path.write_bytes(content)
    for other in target_dir.glob("tokenizer*") if file.startswith("tokenizer") else ():
        other.unlink()
    with pytest.raises(SelfExplainError, match=r"could not be loaded: .*(Download|Give|Save|converts them)"):
        load_target(str(target_dir))


def test_empty_and_long_texts_raise_an_error(target):
    with pytest.raises(SelfExplainError, match="text is empty"):
        target.encode(" \n")
    with pytest.raises(SelfExplainError, match="the context of tiny-random holds 256"):
        target.encode("word " * 300)


def test_code_in_a_repository_runs_only_if_it_is_trusted(target_dir):
    with_own_code(target_dir)
    with pytest.raises(
        SelfExplainError, match=r"custom code .* If you have read the code and trust it, set trust_remote"
    ):
        load_target(str(target_dir))
    assert target_shape(str(target_dir), trust_remote_code=True).d_model == 32
    assert type(load_target(str(target_dir), trust_remote_code=True).model).__name__ == "OwnForCausalLM"


def test_modules_on_disk_are_loaded_except_the_embeddings(target_dir, tmp_path):
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cpu", "model.layers.3": "cpu"}
    options = {"offload_folder": str(tmp_path / "disk")}
    loaded = load_target(str(target_dir), device_map=places, **options).private()
    ids = torch.tensor([[1, 40, 50]])
    assert torch.equal(loaded.model(ids).logits, load_target(str(target_dir)).model(ids).logits)
    with pytest.raises(SelfExplainError, match="embeddings of LlamaForCausalLM are offloaded"):
        load_target(str(target_dir), device_map=places | {"model.embed_tokens": "disk"}, **options)


@pytest.mark.parametrize("with_config", [True, False])
def test_the_error_for_a_lora_adapter_has_the_command_that_merges_it(
    target, target_dir, tmp_path, with_config, monkeypatch
):
    adapted = get_peft_model(target.model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = str(target_dir)
    adapted.save_pretrained(tmp_path / "adapter")
    if with_config:
        target.model.config.save_pretrained(tmp_path / "adapter")
    with pytest.raises(SelfExplainError, match="is a LoRA adapter and not a whole model") as error:
        load_target(str(tmp_path / "adapter"))
    code = shlex.split(str(error.value).partition("python -c ")[2])[0]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    merged = load_target("./merged")
    ids = merged.encode("The capital of France")
    expected = adapted.merge_and_unload()(torch.tensor([ids])).logits
    assert torch.equal(merged.model(torch.tensor([ids])).logits, expected)

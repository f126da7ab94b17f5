"""Weights of third-party checkpoints are read completely, and from safetensors only."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from battery import tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.modeling.third_party.checkpoint import Checkpoint
from selfexplain.modeling.third_party.weights import changed_matrices, read_projection, read_weights

FILES = Checkpoint("theirs", "theirs", {})


def test_a_lora_adapter_with_a_weight_missing_is_refused(save_adapter):
    directory = save_adapter("llama", "oracle_addition")
    weights = load_file(directory / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, directory / "adapter_model.safetensors")
    with pytest.raises(SelfExplainError, match=r"adapter_model\.safetensors lacks base_model"):
        SelfExplainerForCausalLM.from_third_party(directory, family="activation_oracle")


def test_a_lora_adapter_of_a_different_architecture_is_refused(save_adapter, save_base):
    directory = save_adapter("llama", "oracle_addition")
    other = save_base("gpt2", "other")
    with pytest.raises(SelfExplainError, match=r"oracle_addition"):
        SelfExplainerForCausalLM.from_third_party(directory, family="activation_oracle", base=str(other))


def test_an_adapter_that_is_not_lora_is_refused(save_adapter):
    directory = save_adapter("llama", "oracle_addition")
    settings = {"peft_type": "IA3", "base_model_name_or_path": str(directory.parent / "base"), "target_modules": "all"}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(SelfExplainError, match="peft_type is 'IA3', expected LORA"):
        SelfExplainerForCausalLM.from_third_party(directory, family="activation_oracle")


def test_pickled_weights_are_not_opened(save_adapter):
    directory = save_adapter("llama", "oracle_addition")
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(SelfExplainError, match=r"has no adapter_model.safetensors. Pickled weights .* are not opened"):
        SelfExplainerForCausalLM.from_third_party(directory, family="activation_oracle")


def test_projections_are_read_from_the_shards_that_have_them(tmp_path):
    save_file({"model.norm.weight": torch.ones(4)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"embed_projs.0.weight": torch.eye(4)}, tmp_path / "model-00002-of-00002.safetensors")
    index = {
        "model.norm.weight": "model-00001-of-00002.safetensors",
        "embed_projs.0.weight": "model-00002-of-00002.safetensors",
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    weights = read_weights(Checkpoint("theirs", str(tmp_path), {}, model={}))
    assert set(weights) == {"embed_projs.0.weight"} and torch.equal(weights["embed_projs.0.weight"], torch.eye(4))


def test_projections_are_stacked_by_layer():
    maps = torch.randn(2, 4, 3, dtype=torch.float64)
    projection = read_projection(FILES, {f"embed_projs.{layer}.weight": maps[layer] for layer in (1, 0)}, 4)
    torch.testing.assert_close(projection, maps.float())
    assert read_projection(FILES, {}, 4) is None
    assert read_projection(FILES, {"embed_projs.0.weight": torch.eye(4)}, 4) is None  # unused at equal widths


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"embed_projs.1.weight": torch.ones(4, 3)}, r"layers \[1\] .* expected one per layer"),
        ({"embed_projs.0.weight": torch.ones(5, 3)}, r"shapes \[\(5, 3\)\], .* of the shape \(4, width"),
        ({"embed_projs.0.lora_A": torch.ones(4, 3)}, r"embed_projs\.0\.lora_A changes a projection"),
    ],
)
def test_incomplete_projections_are_refused(weights, message):
    with pytest.raises(SelfExplainError, match=message):
        read_projection(FILES, weights, 4)


def test_matrices_that_differ_only_by_rounding_are_unchanged():
    model = tiny_model("llama")
    embedding = model.get_input_embeddings().weight.data
    prefix = "base_model.model."
    weights = {f"{prefix}model.embed_tokens.weight": embedding.bfloat16(), f"{prefix}lm_head.weight": embedding + 1}
    assert set(changed_matrices(model, weights)) == {"lm_head.weight"}

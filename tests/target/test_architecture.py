"""Models whose residual stream cannot be read exactly are refused by name when they are loaded."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from battery import ARCHITECTURES, tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.target.architecture import check_architecture
from selfexplain.target.load import load_target, target_shape


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_supported_architectures_pass(architecture):
    check_architecture(tiny_model(architecture), architecture)


def small(model_type, **values):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"vocab_size": 512, "pad_token_id": 0, "max_position_embeddings": 64}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(sizes | values))).eval()


@pytest.mark.parametrize(
    ("model_type", "values", "message"),
    [
        ("bert", {"is_decoder": False}, r"BertLMHeadModel \(target 'x'\) is not causal"),
        ("openai-gpt", {"n_embd": 32, "n_layer": 2, "n_head": 4}, "Block 0 of OpenAIGPTLMHeadModel .* no tensor"),
        ("rwkv", {}, "block outputs of RwkvForCausalLM .* are not its hidden states"),
        (
            "gemma3n_text",
            {"num_key_value_heads": 2, "head_dim": 8, "vocab_size_per_layer_input": 512,
             "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "laurel_rank": 8,
             "activation_sparsity_pattern": [0.0, 0.0],
             "layer_types": ["sliding_attention", "full_attention"]},
            "Block 0 of Gemma3nForCausalLM .* returns .*expected one residual stream",
        ),
    ],
)  # fmt: skip
def test_other_architectures_are_refused_by_name(model_type, values, message):
    with pytest.raises(SelfExplainError, match=message):
        check_architecture(small(model_type, **values), "x")


def test_the_text_part_of_a_multimodal_model_is_a_target(tokenizer, tmp_path):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    from selfexplain.target.capture import capture
    from selfexplain.target.patching import Patch, run_patches

    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 8,
            "num_key_value_heads": 2, "vocab_size": 512, "sliding_window": 8, "query_pre_attn_scalar": 8}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1)
    ).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    target = load_target(str(tmp_path))
    assert (target.n_layers, target.d_model) == (4, 32) and target_shape(str(tmp_path)).d_model == 32
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert all(torch.equal(capture(target.model, ids, [layer])[0], states[layer + 1]) for layer in range(3))
    results = run_patches(target, ids.tolist(), [Patch(0, (1,), (2,), torch.ones(1, 32))])
    assert results.method == "resumed" and results.check.max_difference < 1e-4


def test_incomplete_weights_are_refused(target_dir):
    path = target_dir / "model.safetensors"
    weights = load_file(path)
    removed = weights.pop("model.layers.2.mlp.up_proj.weight")
    assert removed.ndim == 2
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(SelfExplainError, match=r"model\.layers\.2\.mlp\.up_proj\.weight|weights"):
        load_target(str(target_dir))
    assert json.loads((target_dir / "config.json").read_text())["num_hidden_layers"] == 4

"""Test recipes for models on the Hub: keys, shapes and memory, from the configurations of the models alone."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from selfexplain.groundtruth.builders.dictionaries import choose_layers
from selfexplain.modeling.activation_adapter import ActivationAdapter
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.pipeline.estimate import CUDA_CONTEXT, NF4_BYTES, adapter_parameters, estimate_memory, shapes
from selfexplain.runs.recipe import load_recipe, packaged_recipes
from selfexplain.target.blocks import decoder_blocks

# The sizes in config.json of each model on the Hub.
LLAMA = {"model_type": "llama", "vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 131072}
LLAMA_8B = {
    **LLAMA,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 14336,
}
QWEN3 = {
    "model_type": "qwen3", "vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": 40960,
}  # fmt: skip
CONFIGS = {
    "Qwen/Qwen3-0.6B": {
        **QWEN3, "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 3072,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-8B": {
        **QWEN3, "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 12288,
        "tie_word_embeddings": False,
    },
    "meta-llama/Llama-3.2-1B": {
        **LLAMA, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "intermediate_size": 8192,
        "tie_word_embeddings": True,
    },
    "meta-llama/Llama-3.2-3B": {
        **LLAMA, "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "intermediate_size": 8192,
        "head_dim": 128, "tie_word_embeddings": True,
    },
    "meta-llama/Llama-3.1-8B": LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA_8B,
    "google/gemma-2-2b": {
        "model_type": "gemma2", "vocab_size": 256000, "hidden_size": 2304, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216,
        "max_position_embeddings": 8192,
    },
}  # fmt: skip
# Billions of parameters, as the page of each model states them.
PARAMETERS = {
    "Qwen/Qwen3-0.6B": 0.6, "Qwen/Qwen3-8B": 8.19, "meta-llama/Llama-3.2-1B": 1.24, "meta-llama/Llama-3.2-3B": 3.21,
    "meta-llama/Llama-3.1-8B": 8.03, "google/gemma-2-2b": 2.61,
}  # fmt: skip
REAL = [path.stem for path in packaged_recipes() if "measured: false" in path.read_text()]


def config_of(name):
    values = dict(CONFIGS[name])
    return AutoConfig.for_model(values.pop("model_type"), **values)


def test_every_documented_model_has_a_recipe():
    assert {"qwen3_0.6b", "llama_3.2_1b", "llama_3.2_3b", "qwen3_8b_qlora", "llama_3.1_8b_qlora", "gemma_2_2b"} <= set(
        REAL
    )
    assert sum(name.startswith("paper_") for name in REAL) == 8


@pytest.mark.parametrize(("name", "billions"), PARAMETERS.items())
def test_shapes_count_all_parameters(name, billions):
    linear, other = shapes(config_of(name))
    assert (sum(n_in * n_out for n_in, n_out in linear) + other) / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize("name", REAL)
def test_a_recipe_fits_its_hardware(name):
    recipe = load_recipe(name)
    base = config_of(recipe.explainer or recipe.target)
    memory = estimate_memory(recipe, base, config_of(recipe.target) if recipe.explainer else None)
    stated = recipe.expected.gpu_gb or recipe.expected.memory_gb
    assert 0.25 * stated < memory.total / 2**30 < 0.95 * stated, memory.lines()  # a card of 12 GB has 12 GiB
    on_cpu = memory.ground_truth if recipe.expected.gpu_gb is None else 0.0
    assert (memory.host + on_cpu) / 1e9 < 0.8 * recipe.expected.memory_gb, memory.lines()
    assert f"{stated:g} GB" in recipe.expected.hardware or recipe.expected.gpu_gb is None
    assert recipe.target_revision is None  # replaced by a commit at the first start


def test_the_estimate_covers_every_step():
    """With Qwen3-8B in 4 bits, every step uses 4 bits; in 16 bits, ground truth alone exceeds the GPU."""
    base = config_of("Qwen/Qwen3-8B")
    in_4_bits = estimate_memory(load_recipe("qwen3_8b_qlora"), base)
    in_16_bits = estimate_memory(load_recipe("qwen3_8b_qlora", ["training.quantization=null"]), base)
    assert in_16_bits.ground_truth - in_4_bits.ground_truth == pytest.approx(6.95e9 * (2 - NF4_BYTES), rel=0.02)
    assert in_16_bits.ground_truth > 16e9 > in_4_bits.total == CUDA_CONTEXT + in_4_bits.ground_truth
    crossed = estimate_memory(load_recipe("qwen3_8b_qlora", ["explainer=other/one"]), base, base)
    assert crossed.ground_truth == in_16_bits.ground_truth  # this target is not the base of the explainer
    assert crossed.training > in_4_bits.training + 16e9


@pytest.mark.parametrize("name", REAL)
def test_layers_dictionaries_and_widths_exist(name):
    recipe = load_recipe(name)
    target, base = config_of(recipe.target), config_of(recipe.explainer or recipe.target)
    if "feature_description" in recipe.tasks:
        features = recipe.feature_description
        layers = choose_layers(features.layers, target.num_hidden_layers)
        assert layers and max(layers) < target.num_hidden_layers
        if features.saes is not None:
            known = Path(find_spec("sae_lens").origin).with_name("pretrained_saes.yaml").read_text()
            release = re.search(rf"^{features.saes}:\n((?:[ -].*\n)+)", known, re.M)[1]
            assert recipe.target.rpartition("/")[2] in release
            for layer in layers:
                entry = re.search(rf"- id: {features.sae_id.format(layer=layer)}\n((?:    .*\n)+)", release)[1]
                assert f"/{layer}-" in re.search(r"neuronpedia: (\S+)", entry)[1]
    kind = recipe.adapter.kind or ("linear" if recipe.explainer else "identity")
    with torch.device("meta"):
        blocks = decoder_blocks(AutoModelForCausalLM.from_config(base))
        adapter = ActivationAdapter(
            base.hidden_size, target.hidden_size, kind, range(target.num_hidden_layers), recipe.adapter.rank
        )
    assert len(blocks) == base.num_hidden_layers and recipe.injection.block < len(blocks)
    vectors = torch.zeros(3, target.hidden_size, device="meta")
    if kind == "identity":
        assert adapter(vectors, torch.zeros(3, dtype=torch.long)).shape == (3, base.hidden_size)
    counted = adapter_parameters(recipe, base, target if recipe.explainer else None)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == counted


@pytest.mark.parametrize("name", REAL)
def test_questions_contain_no_special_tokens_of_a_model(name):
    recipe = load_recipe(name)
    source = recipe.input_ablation.source
    texts = [recipe.activation_patching.source.template, source.system, source.answer_prefix, *source.hints.values()]
    assert not [text for text in texts if re.search(r"<\|?\w+\|?>|\[INST\]", text)]


def test_the_number_of_lora_weights_is_that_of_peft():
    explainer = SelfExplainerForCausalLM.from_base("selfexplain/tiny")
    linear, _ = shapes(explainer.config.text_config)
    explainer.add_lora(rank=4, alpha=8)
    added = sum(parameter.numel() for name, parameter in explainer.named_parameters() if "lora_" in name)
    assert added == sum(4 * (n_in + n_out) for n_in, n_out in linear)

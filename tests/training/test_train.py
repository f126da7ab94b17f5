"""From ground-truth files to a saved explainer: of another model, and on a base in 4 bits."""

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.activation_adapter import ActivationAdapter
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.injection_check import precision
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.target.load import load_target
from selfexplain.tasks import feature_description
from selfexplain.training.config import AdapterConfig, LoraConfig, TrainingConfig
from selfexplain.training.train import base_options, paired_activations, train

LITTLE = {"epochs": 1, "batch_size": 4, "lora": LoraConfig(rank=4, alpha=8)}
TEXTS = ["The capital of France is Paris.", "Once there was a small dog near the river.", "The yen is a currency."] * 4


@pytest.fixture
def datasets_dir(tmp_path):
    """Eight rows of feature descriptions with vectors of width 32 at layers 1 and 2."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(8):
        layer = 1 + index % 2
        question = feature_description.question(layer)
        rows.append(
            {
                "prompt": question.prompt,
                "completion": "the word dog",
                "placeholder_offsets": list(question.placeholder_offsets),
                "activations": [torch.randn(32, generator=generator).tolist()],
                "activation_layers": [layer],
            }
        )
    (tmp_path / "datasets" / "feature_description").mkdir(parents=True)
    Dataset.from_list(rows).to_parquet(tmp_path / "datasets" / "feature_description" / "train.parquet")
    return tmp_path / "datasets"


@pytest.fixture
def other_dir(tokenizer, tmp_path):
    """A base of another width and depth than the target: 3 layers of width 48."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    return str(tmp_path / "other")


def test_an_explainer_of_another_width_and_depth(target, other_dir, datasets_dir, tmp_path):
    base = load_target(other_dir)
    pairs = paired_activations(target, base, TEXTS, [1, 2], 100)
    assert pairs[0].shape[::2] == (2, 32) and pairs[1].shape[::2] == (2, 48)
    train(
        TrainingConfig(**LITTLE), InjectionConfig(), AdapterConfig(), base, target, datasets_dir,
        ["feature_description"], tmp_path / "explainer", 0, texts=TEXTS,
    )  # fmt: skip
    explainer = SelfExplainerForCausalLM.from_pretrained(tmp_path / "explainer")
    assert explainer.config.adapter["kind"] == "linear" and explainer.config.adapter["layers"] == [1, 2]
    assert explainer.config.trained_layers == {"feature_description": [1, 2]}
    assert explainer.golden_rows[0]["prompt"] == feature_description.question(1).prompt  # of the training rows
    x, y = pairs[0][1], pairs[1][1]
    mapped = explainer.model.activation_adapter(x, torch.full((len(x),), 2))
    assert (mapped - y).norm() < 0.9 * y.norm()  # fitted
    assert explainer.explain_feature(torch.ones(32), layer=2).text is not None
    with pytest.raises(SelfExplainError, match=r"layers \[0\] given; this explainer reads vectors of \[1, 2\]"):
        explainer.explain_feature(torch.ones(32), layer=0)


def test_the_maps_of_a_target_can_be_fitted_to_its_own_embeddings(target_dir, datasets_dir, tmp_path):
    base = load_target(str(target_dir))
    ids = base.tokenizer(TEXTS[0], return_tensors="pt")["input_ids"][:, 1:]  # without <s>, which no text holds
    held, embedded = paired_activations(base, base, TEXTS, [1, 2], 1000, "embedding")
    torch.testing.assert_close(embedded[1, : ids.shape[1]], base.model.get_input_embeddings()(ids)[0].detach())
    same = paired_activations(base, base, TEXTS, [1, 2], 1000)
    torch.testing.assert_close(same[0], same[1])  # a layer paired with itself
    explainer = train(
        TrainingConfig(**LITTLE, learning_rate=1e-2), InjectionConfig(),
        AdapterConfig(kind="linear", fit_to="embedding", trained=False), base, None, datasets_dir,
        ["feature_description"], tmp_path / "explainer", 0, texts=TEXTS,
    )  # fmt: skip
    mapped = explainer.model.activation_adapter(held[1], torch.full((held.shape[1],), 2))
    assert (mapped - embedded[1]).norm() < 0.5 * embedded[1].norm() < (held[1] - embedded[1]).norm()
    fitted = ActivationAdapter(32, 32, "linear", [1, 2])
    fitted.fit(held, embedded)
    torch.testing.assert_close(explainer.model.activation_adapter.weight, fitted.weight)  # left as it was fitted


def test_qlora_on_one_copy_of_the_base(target_dir, datasets_dir, tmp_path):
    config = TrainingConfig(
        **LITTLE, quantization="nf4", gradient_checkpointing=True, optimizer="paged_adamw_8bit", learning_rate=1e-2
    )
    base = load_target(str(target_dir), **base_options(config))
    ids = torch.tensor([[1, 40, 50, 60]])
    with SelfExplainerForCausalLM.from_base(base.model).as_target() as own, torch.no_grad():
        before = own(ids).logits
    explainer = train(
        config, InjectionConfig(), AdapterConfig(), base, None, datasets_dir, ["feature_description"],
        tmp_path / "explainer", 0,
    )  # fmt: skip
    projection = explainer.language_model.model.layers[0].self_attn.q_proj
    assert explainer.language_model is base.model and precision(base.model) == "nf4"
    assert projection.weight.quant_state.nested and projection.weight.dtype == torch.uint8
    assert {p.dtype for p in explainer.parameters() if p.requires_grad} == {torch.float32}
    assert any(p.abs().max() > 0 for name, p in explainer.named_parameters() if "lora_B" in name)  # it learned
    with torch.no_grad():
        assert not torch.allclose(base.model(ids).logits, before)
        with explainer.as_target() as own:
            torch.testing.assert_close(own(ids).logits, before)
    for options in ({}, base_options(config)):
        loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path / "explainer", **options)
        assert precision(loaded.language_model) == ("nf4" if options else "float32")
        assert loaded.model.activation_adapter.markers.dtype == torch.float32
        assert "quantization_config" not in loaded.config.to_dict()["text_config"] or options

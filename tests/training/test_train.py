"""Training from ground-truth files to a saved explainer: a different base, a fitted adapter, a base in 4 bits."""

import pytest
import torch
from datasets import Dataset

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.activation_adapter import ActivationAdapter
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.injection_check import precision
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.target.load import load_target
from selfexplain.tasks import feature_description
from selfexplain.training.config import AdapterConfig, LoraConfig, TrainingConfig
from selfexplain.training.pairing import paired_activations
from selfexplain.training.train import _delete_incomplete, _optimizer_name, _trainer_arguments, base_options, train

SHORT = {"epochs": 1, "batch_size": 4, "lora": LoraConfig(rank=4, alpha=8)}
TEXTS = ["The capital of France is Paris.", "Once there was a small dog near the river.", "The yen is a currency."] * 4
TASKS = ["feature_description"]


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


def weights(explainer, part):
    return {name: p.detach().clone() for name, p in explainer.named_parameters() if part in name}


def test_a_base_of_different_width_and_depth_gets_a_fitted_linear_adapter(target, wide_dir, datasets_dir, tmp_path):
    base = load_target(wide_dir)
    fitted = ActivationAdapter(48, 32, "linear", [1, 2])
    fitted.fit(*paired_activations(target, base, TEXTS, [1, 2], 10_000))
    trained = train(
        TrainingConfig(**SHORT), InjectionConfig(), AdapterConfig(trained=False), base, target, datasets_dir, TASKS,
        tmp_path / "explainer", 0, texts=TEXTS, split_seed=5,
    )  # fmt: skip
    explainer = SelfExplainerForCausalLM.from_pretrained(tmp_path / "explainer")
    adapter, config = explainer.model.activation_adapter, explainer.config
    assert config.adapter == {"kind": "linear", "layers": [1, 2], "rank": 64, "d_target": 32}
    assert config.target == {"model": "tiny-random", "revision": None, "n_layers": 4, "d_model": 32}
    assert config.trained_layers == {"feature_description": [1, 2]} and config.split_seed == 5
    assert [row["prompt"] for row in explainer.golden_rows] == [feature_description.question(n).prompt for n in (1, 2)]
    torch.testing.assert_close(adapter.weight, fitted.weight)
    asked = [each.explain_feature(torch.ones(32), layer=2).text for each in (explainer, trained)]
    assert asked[0] == asked[1]
    with pytest.raises(SelfExplainError, match=r"from layers \[0\] were given.* from layers \[1, 2\]"):
        explainer.explain_feature(torch.ones(32), layer=0)


def test_an_adapter_can_be_fitted_to_the_embeddings_of_the_same_model(target_dir, datasets_dir, tmp_path):
    base = load_target(str(target_dir))
    activations, embedded = paired_activations(base, base, TEXTS, [1, 2], 1000, "embedding")
    fitted = ActivationAdapter(32, 32, "linear", [1, 2])
    fitted.fit(activations, embedded)
    explainer = train(
        TrainingConfig(**SHORT, learning_rate=1e-2), InjectionConfig(),
        AdapterConfig(kind="linear", fit_to="embedding", trained=False), base, None, datasets_dir, TASKS,
        tmp_path / "explainer", 0, texts=TEXTS,
    )  # fmt: skip
    torch.testing.assert_close(explainer.model.activation_adapter.weight, fitted.weight)
    mapped = explainer.model.activation_adapter(activations[1], torch.full((activations.shape[1],), 2))
    assert (mapped - embedded[1]).norm() < 0.5 * (activations[1] - embedded[1]).norm()


def test_training_updates_the_lora_weights_and_the_adapter(target_dir, datasets_dir, tmp_path):
    settings = TrainingConfig(**SHORT, learning_rate=1e-2)
    adapter = AdapterConfig(kind="linear", fit_tokens=0)
    base = load_target(str(target_dir))
    frozen = {name: p.detach().clone() for name, p in base.model.named_parameters()}
    explainer = train(settings, InjectionConfig(), adapter, base, None, datasets_dir, TASKS, tmp_path / "explainer", 0)
    assert all(weight.abs().max() > 0 for weight in weights(explainer, "lora_B").values())
    identity = torch.eye(32).expand(2, -1, -1)
    assert not torch.equal(explainer.model.activation_adapter.weight, identity)
    now = dict(base.model.named_parameters())
    assert all(torch.equal(weight, now[name.replace("proj.weight", "proj.base_layer.weight")])
               for name, weight in frozen.items())  # fmt: skip
    assert not (tmp_path / "explainer" / "checkpoints").exists()


def test_training_is_deterministic(target_dir, datasets_dir, tmp_path):
    runs = []
    for name in ("first", "second"):
        explainer = train(
            TrainingConfig(**SHORT), InjectionConfig(), AdapterConfig(), load_target(str(target_dir)), None,
            datasets_dir, TASKS, tmp_path / name, 3,
        )  # fmt: skip
        runs.append(weights(explainer, "lora_"))
    assert runs[0].keys() == runs[1].keys() and len(runs[0]) > 0
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_an_incomplete_checkpoint_is_deleted(target_dir, datasets_dir, tmp_path):
    incomplete = tmp_path / "explainer" / "checkpoints" / "checkpoint-1"
    incomplete.mkdir(parents=True)
    (incomplete / "config.json").write_text("{")
    explainer = train(
        TrainingConfig(**SHORT), InjectionConfig(), AdapterConfig(), load_target(str(target_dir)), None,
        datasets_dir, TASKS, tmp_path / "explainer", 0,
    )  # fmt: skip
    assert all(weight.abs().max() > 0 for weight in weights(explainer, "lora_B").values())


@pytest.mark.parametrize(
    ("optimizer", "on_gpu", "expected"),
    [
        ("adamw", True, "adamw_torch_fused"),
        ("adamw", False, "adamw_torch_fused"),
        ("paged_adamw_8bit", True, "paged_adamw_8bit"),
        ("paged_adamw_8bit", False, "adamw_8bit"),
    ],
)
def test_an_optimizer_is_paged_only_on_a_gpu(optimizer, on_gpu, expected):
    assert _optimizer_name(TrainingConfig(optimizer=optimizer), on_gpu) == expected


def test_checkpoints_whose_writing_was_interrupted_are_deleted(tmp_path):
    for name, state in {
        "checkpoint-2": '{"global_step": 2}',
        "checkpoint-4": '{"global_',
        "checkpoint-6": None,
    }.items():
        (tmp_path / name).mkdir()
        if state is not None:
            (tmp_path / name / "trainer_state.json").write_text(state)
    _delete_incomplete(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize(("save_steps", "logging_steps"), [(100, 50), (20, 10), (50, 50), (7, 1), (1000, 50)])
def test_a_logged_loss_never_spans_a_checkpoint(tmp_path, save_steps, logging_steps):
    """Otherwise, the first loss after resuming would be the mean of fewer steps than without the interruption."""
    assert _trainer_arguments(TrainingConfig(save_steps=save_steps), tmp_path, seed=0).logging_steps == logging_steps


def test_every_optimisation_setting_reaches_the_trainer(tmp_path):
    config = TrainingConfig(
        epochs=3, batch_size=5, gradient_accumulation=7, learning_rate=0.25, weight_decay=0.125, save_steps=11
    )
    arguments = _trainer_arguments(config, tmp_path, seed=13)
    assert (arguments.num_train_epochs, arguments.per_device_train_batch_size) == (3, 5)
    assert (arguments.gradient_accumulation_steps, arguments.learning_rate) == (7, 0.25)
    assert (arguments.weight_decay, arguments.save_steps) == (0.125, 11)
    assert (arguments.seed, arguments.data_seed) == (13, 13)


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.filterwarnings("error:Paged optimizers")
def test_qlora_trains_on_one_quantised_copy_of_the_base(target_dir, datasets_dir, tmp_path):
    config = TrainingConfig(
        **SHORT, quantization="nf4", activation_checkpointing=True, optimizer="paged_adamw_8bit", learning_rate=1e-2
    )
    base = load_target(str(target_dir), **base_options(config))
    ids = torch.tensor([[1, 40, 50, 60]])
    with SelfExplainerForCausalLM.from_base(base.model).as_target() as model, torch.no_grad():
        before = model(ids).logits
    explainer = train(
        config, InjectionConfig(), AdapterConfig(), base, None, datasets_dir, TASKS, tmp_path / "explainer", 0
    )
    projection = explainer.language_model.model.layers[0].self_attn.q_proj
    assert explainer.language_model is base.model and precision(base.model) == "nf4"
    assert projection.weight.quant_state.nested and projection.weight.dtype == torch.uint8
    assert {p.dtype for p in explainer.parameters() if p.requires_grad} == {torch.float32}
    assert all(weight.abs().max() > 0 for weight in weights(explainer, "lora_B").values())
    with torch.no_grad():
        assert not torch.allclose(base.model(ids).logits, before)
        with explainer.as_target() as model:
            torch.testing.assert_close(model(ids).logits, before)
    quantised = SelfExplainerForCausalLM.from_pretrained(tmp_path / "explainer", **base_options(config))
    whole = SelfExplainerForCausalLM.from_pretrained(tmp_path / "explainer")
    assert precision(quantised.language_model) == "nf4" and precision(whole.language_model) == "float32"
    for loaded in (quantised, whole):
        assert loaded.model.activation_adapter.markers.dtype == torch.float32
    assert "quantization_config" in quantised.config.to_dict()["text_config"]
    assert "quantization_config" not in whole.config.to_dict()["text_config"]

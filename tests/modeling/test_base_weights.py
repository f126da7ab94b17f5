"""Weights of the base that were trained or merged are saved, or saving is refused."""

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from battery import tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.base_weights import BaseWeights, bare_state, fingerprint
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])
LORA = {"rank": 4, "alpha": 8}
PEFT_LORA = {"r": 4, "lora_alpha": 8, "init_lora_weights": False, "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("base")
    tiny_model("llama").save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def explainer_on(base_dir, **options):
    """An explainer without a processor, so that no golden questions are asked."""
    explainer = SelfExplainerForCausalLM.from_base(str(base_dir), **options)
    explainer.processor = None
    return explainer


@torch.no_grad()
def logits(explainer):
    inputs = {
        "activations": torch.linspace(-1, 1, 32)[None, None],
        "activation_mask": torch.tensor([[True]]),
        "activation_layers": torch.tensor([[1]]),
        "activation_positions": torch.tensor([[2]]),
    }
    return explainer(IDS, **inputs).logits


def fine_tune(explainer):
    optimizer = torch.optim.AdamW(explainer.parameters(), lr=1e-3)
    for _ in range(2):
        explainer(IDS, labels=IDS).loss.backward()
        optimizer.step()


def merge_peft(explainer):
    model = get_peft_model(explainer, LoraConfig(**PEFT_LORA, target_modules=["q_proj", "down_proj"]))
    merged = model.merge_and_unload()
    assert merged is explainer


def scale_one_norm(explainer):
    explainer.language_model.model.norm.weight.data *= 2  # ones become twos


def change_one_embedding(explainer):
    explainer.get_input_embeddings().weight.data[40] += 0.5


def swap_two_rows(explainer):
    weight = explainer.language_model.model.layers[1].mlp.up_proj.weight.data
    weight[[0, 1]] = weight[[1, 0]]


def add_tokens(explainer):
    explainer.resize_token_embeddings(520)


CHANGES = (fine_tune, merge_peft, scale_one_norm, change_one_embedding, swap_two_rows, add_tokens)


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_base_is_saved_with_the_explainer(base_dir, tmp_path, change, lora, caplog):
    if lora and change is merge_peft:
        pytest.skip("a second adapter over the explainer's own")
    explainer = explainer_on(base_dir, lora=lora)
    before = logits(explainer)
    explainer.requires_grad_(True)
    change(explainer)
    expected = logits(explainer)
    assert expected.shape != before.shape or not torch.allclose(expected, before, atol=1e-4)
    explainer.save_pretrained(tmp_path)
    assert "The weights of the base differ from those of" in caplog.text
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded), expected)
    assert (tmp_path / "lora").is_dir() == bool(lora)
    for model in (explainer, loaded):
        with pytest.raises(SelfExplainError, match="cannot be switched back"), model.as_target():
            pass
    loaded.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(logits(SelfExplainerForCausalLM.from_pretrained(tmp_path / "again")), expected)


@pytest.mark.parametrize("name", ["named", None])
def test_lora_weights_are_merged_into_a_changed_base(base_dir, tmp_path, name):
    explainer = explainer_on(base_dir, lora=LORA)
    explainer.requires_grad_(True)
    fine_tune(explainer)
    if name is None:
        explainer.config.base_model_name_or_path = None
    expected = logits(explainer)
    merged = explainer.merge_and_save(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected)
    explainer.save_pretrained(tmp_path / "saved")
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(loaded.merge_and_save(tmp_path / "again")), expected)
    assert not list((tmp_path / "again").glob("lora"))
    assert torch.equal(logits(explainer), expected)  # the explainer itself does not change


@pytest.mark.parametrize("lora", [None, LORA])
def test_an_unchanged_base_is_not_saved(base_dir, tmp_path, lora):
    explainer = explainer_on(base_dir, lora=lora)
    explainer.save_pretrained(tmp_path / "float32")
    explainer.language_model.bfloat16()
    explainer.save_pretrained(tmp_path / "bfloat16")
    given = SelfExplainerForCausalLM.from_base(AutoModelForCausalLM.from_pretrained(base_dir), lora=lora)
    given.save_pretrained(tmp_path / "given")
    for name in ("float32", "bfloat16", "given"):
        assert not (tmp_path / name / "merged").exists()
    assert given.base_weights.as_named  # compared once
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path / "float32", dtype=torch.bfloat16)
    loaded.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "merged").exists()


def test_a_base_that_was_changed_before_is_saved(base_dir, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(base_dir)
    base.model.layers[2].self_attn.q_proj.weight.data += 0.1
    explainer = SelfExplainerForCausalLM.from_base(base)
    explainer.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(SelfExplainerForCausalLM.from_pretrained(tmp_path)), logits(explainer))


def on_the_explainer(explainer, config):
    explainer.add_adapter(config)


def on_the_base(explainer, config):
    explainer.language_model.add_adapter(config, adapter_name="mine")


@pytest.mark.parametrize("add", [on_the_explainer, on_the_base])
@pytest.mark.parametrize("modules", [["q_proj", "down_proj"], "all-linear", r".*\.layers\.[12]\..*proj"])
def test_an_adapter_of_peft_is_saved(base_dir, tmp_path, add, modules):
    explainer = explainer_on(base_dir)
    before = logits(explainer)
    add(explainer, LoraConfig(**PEFT_LORA, target_modules=modules))
    expected = logits(explainer)
    assert not torch.allclose(expected, before, atol=1e-4)
    explainer.save_pretrained(tmp_path)
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded), expected)
    assert not (tmp_path / "merged").exists()
    with loaded.as_target() as target, torch.no_grad():
        torch.testing.assert_close(target(IDS).logits, tiny_model("llama")(IDS).logits)


def merge_in_place(explainer):
    explainer.add_lora(**LORA)
    for module in explainer.modules():
        if hasattr(module, "lora_A"):
            module.merge()


def add_two(explainer):
    explainer.add_lora(**LORA)
    explainer.language_model.add_adapter(LoraConfig(**PEFT_LORA, target_modules=["q_proj"]), adapter_name="second")


def add_ia3(explainer):
    explainer.language_model.add_adapter(IA3Config(target_modules=["q_proj"], feedforward_modules=[]))


def train_biases(explainer):
    explainer.language_model.add_adapter(LoraConfig(**PEFT_LORA, target_modules=["q_proj"], bias="all"))


REFUSED = {
    merge_in_place: "are merged into the base but still there",
    add_two: r"are 2 \(default, second\), but an explainer has one",
    add_ia3: "are of type IA3, not LORA",
    train_biases: "train biases of the base",
}


@pytest.mark.parametrize("change", REFUSED)
def test_adapters_that_cannot_be_saved_are_refused(base_dir, tmp_path, change):
    explainer = explainer_on(base_dir)
    change(explainer)
    with pytest.raises(SelfExplainError, match=f"peft adapters {REFUSED[change]}"):
        explainer.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_an_explainer_whose_lora_weights_are_off_is_not_saved(base_dir, tmp_path):
    """Its answers to the golden questions would be those of the target."""
    explainer = explainer_on(base_dir, lora=LORA)
    message = r"adapters are switched off \(leave as_target\(\), or call enable_adapters\(\) first\)"
    with explainer.as_target(), pytest.raises(SelfExplainError, match=message):
        explainer.save_pretrained(tmp_path)
    explainer.disable_adapters()
    with pytest.raises(SelfExplainError, match=message):
        explainer.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    explainer.enable_adapters()
    explainer.save_pretrained(tmp_path)


def test_removed_adapters_are_not_saved(base_dir, tmp_path):
    from peft.tuners.tuners_utils import BaseTunerLayer

    explainer = explainer_on(base_dir, lora=LORA)
    base = explainer.language_model
    for name, module in list(base.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, attribute = name.rpartition(".")
            setattr(base.get_submodule(parent), attribute, module.get_base_layer())
    explainer.save_pretrained(tmp_path)
    assert explainer.config.lora is None and not (tmp_path / "lora").exists() and not (tmp_path / "merged").exists()


def test_a_gathered_state_dict_is_saved(base_dir, tmp_path):
    explainer = explainer_on(base_dir, lora=LORA)
    other = explainer_on(base_dir, lora=LORA, seed=1)
    for parameter in other.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    explainer.save_pretrained(tmp_path / "lora", state_dict=other.state_dict())
    torch.testing.assert_close(
        logits(SelfExplainerForCausalLM.from_pretrained(tmp_path / "lora")), logits(other), atol=1e-5, rtol=1e-4
    )
    scale_one_norm(other)
    explainer.save_pretrained(tmp_path / "full", state_dict=other.state_dict())
    torch.testing.assert_close(
        logits(SelfExplainerForCausalLM.from_pretrained(tmp_path / "full")), logits(other), atol=1e-5, rtol=1e-4
    )
    with pytest.raises(SelfExplainError, match=r"contains the unknown name 'module\.weight'"):
        explainer.save_pretrained(tmp_path, state_dict=other.state_dict() | {"module.weight": torch.ones(1)})
    with pytest.raises(SelfExplainError, match="lacks weights of the activation adapter"):
        explainer.save_pretrained(tmp_path, state_dict={})


def test_weights_are_sharded_on_request(tmp_path):
    explainer = SelfExplainerForCausalLM.from_base(tiny_model("llama"))
    explainer.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 1
    torch.testing.assert_close(logits(SelfExplainerForCausalLM.from_pretrained(tmp_path)), logits(explainer))


def test_a_configuration_and_weights_make_an_explainer():
    explainer = SelfExplainerForCausalLM.from_base(tiny_model("llama"))
    made = SelfExplainerForCausalLM.from_pretrained(None, config=explainer.config, state_dict=explainer.state_dict())
    torch.testing.assert_close(logits(made), logits(explainer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
@pytest.mark.parametrize("n", [1, 7, 8, 33])
def test_hashes_depend_on_every_value(n, dtype):
    values = (torch.arange(n) % 2).to(dtype)
    expected = fingerprint({"w": values})
    assert fingerprint({"w": values.clone()}) == expected
    for position in range(n):
        changed = values.clone()
        changed[position] = 1 - changed[position].long()
        assert fingerprint({"w": changed}) != expected


def test_lora_modules_do_not_change_the_fingerprint_of_the_base():
    base = tiny_model("llama")
    weights = BaseWeights(base)
    explainer = SelfExplainerForCausalLM.from_base(base, lora=LORA | {"trainable_tokens": [3]})
    assert fingerprint(bare_state(explainer.language_model)) == weights.initial

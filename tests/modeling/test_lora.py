"""LoRA weights are written in the format of peft, and loaded completely or not at all."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from explainers import trained
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.lora import PEFT_PREFIX, check_same_tensors, load_lora_state, round_lora, save_lora
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.target.load import load_target


def test_peft_alone_loads_saved_weights(target_dir, tmp_path):
    explainer = trained(target_dir)
    save_lora(explainer, tmp_path / "lora", "float32")
    base = load_target(str(target_dir)).model
    ids = torch.tensor([[1, 40, 50, 60]])
    with torch.no_grad():
        before = base(ids).logits
        loaded = PeftModel.from_pretrained(base, tmp_path / "lora")(ids).logits
        expected = explainer.language_model(ids).logits
    torch.testing.assert_close(loaded, expected)
    assert (loaded - before).abs().max() > 1e-3


def test_rounding_gives_the_saved_weights(target_dir, tmp_path):
    explainer = trained(target_dir)
    round_lora(explainer, torch.float16)
    save_lora(explainer, tmp_path / "lora", "float16")
    saved = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    state = {name.replace(".default", ""): weight for name, weight in explainer.language_model.named_parameters()}
    for name, weight in saved.items():
        assert weight.dtype == torch.float16
        assert torch.equal(weight.float(), state[name.removeprefix(PEFT_PREFIX)])


def test_loading_replaces_every_weight(target_dir, tmp_path):
    explainer = trained(target_dir)
    save_lora(explainer, tmp_path / "lora", "float32")
    saved = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    fresh = SelfExplainerForCausalLM.from_base(str(target_dir), lora={"rank": 4, "alpha": 8})
    load_lora_state(fresh, saved, "saved")
    ids = torch.tensor([[1, 40, 50, 60]])
    with torch.no_grad():
        torch.testing.assert_close(fresh.language_model(ids).logits, explainer.language_model(ids).logits)
    with pytest.raises(SelfExplainError, match=r"^saved lacks base_model\.model\..* and \d+ more\."):
        load_lora_state(fresh, {}, "saved")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": torch.ones(2)}, r"^file lacks b\. "),
        ({"a": torch.ones(2), "b": torch.ones(3), "c": torch.ones(1)}, r"^file contains the unknown tensor c\. "),
        ({"a": torch.ones(3), "b": torch.ones(2)}, r"^file has a different shape for a and 1 more\. "),
    ],
)
def test_state_dicts_that_differ_are_refused(given, message):
    expected = {"a": torch.zeros(2), "b": torch.zeros(3)}
    check_same_tensors(expected, {"a": torch.ones(2), "b": torch.ones(3)}, "file")
    with pytest.raises(SelfExplainError, match=message):
        check_same_tensors(expected, given, "file")


def test_lora_weights_are_float32_on_a_base_in_bfloat16(target_dir, tmp_path):
    explainer = SelfExplainerForCausalLM.from_base(str(target_dir), lora={"rank": 4, "alpha": 8}, dtype=torch.bfloat16)
    dtypes = {weight.dtype for name, weight in explainer.named_parameters() if "lora_" in name}
    assert dtypes == {torch.float32} and explainer.language_model.dtype == torch.bfloat16
    explainer.save_pretrained(tmp_path / "saved")
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    ids = torch.tensor([[1, 20, 30, 40]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, explainer(ids).logits)

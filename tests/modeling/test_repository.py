"""Published explainers load in every supported way, and damaged ones are refused with the reason."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BitsAndBytesConfig

from battery import tiny_model
from explainers import copied, edit, trained
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.target.load import load_target
from selfexplain.tasks import feature_description

ADAPTERS = {"identity": {}, "linear": {"kind": "linear", "layers": [1, 3]}}


def randomise(explainer):
    torch.manual_seed(0)
    for parameter in explainer.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)


def batch(explainer, layer=1):
    question = feature_description.question(layer)
    row = {
        "prompt": question.prompt,
        "placeholder_offsets": question.placeholder_offsets,
        "activations": [torch.linspace(-1, 1, 32)],
        "activation_layers": [layer],
    }
    return explainer.processor([row])


@torch.no_grad()
def logits(explainer):
    return explainer(**batch(explainer)).logits[0, -1]


@pytest.fixture(scope="module")
def published(tokenizer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("published")
    tiny_model("llama").save_pretrained(directory / "base")
    tokenizer.save_pretrained(directory / "base")
    trained(directory / "base").save_pretrained(directory / "saved", lora_dtype="float16")
    return directory


@pytest.fixture
def saved(published, tmp_path):
    return copied(published, tmp_path)


def files(directory):
    return {str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*") if f.is_file()}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_save_load_save_gives_identical_files_and_logits(target_dir, tmp_path, kind):
    explainer = trained(target_dir, adapter=ADAPTERS[kind], tasks=["feature_description"])
    explainer.save_pretrained(tmp_path / "saved")
    for cls in (AutoModel, AutoModelForCausalLM, SelfExplainerForCausalLM):
        loaded = cls.from_pretrained(tmp_path / "saved")
        assert isinstance(loaded, SelfExplainerForCausalLM)
        torch.testing.assert_close(logits(loaded), logits(explainer))
    loaded.save_pretrained(tmp_path / "again")
    assert files(tmp_path / "saved") == files(tmp_path / "again")
    assert loaded.config.tasks == ["feature_description"]


def test_half_precision_lora_weights_keep_their_dtype_when_saved_again(saved, tmp_path):
    SelfExplainerForCausalLM.from_pretrained(saved).save_pretrained(tmp_path / "again")
    assert files(saved) == files(tmp_path / "again")
    weights = load_file(saved / "lora" / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}


def test_a_merged_explainer_needs_no_base(target_dir, tmp_path):
    explainer = trained(target_dir, adapter=ADAPTERS["linear"])
    merged = explainer.merge_and_save(tmp_path / "full")
    torch.testing.assert_close(logits(merged), logits(explainer), atol=1e-4, rtol=1e-4)
    shutil.rmtree(target_dir)
    loaded = AutoModel.from_pretrained(tmp_path / "full", dtype="float32", attn_implementation="eager")
    torch.testing.assert_close(logits(loaded), logits(explainer), atol=1e-4, rtol=1e-4)
    assert loaded.language_model.config._attn_implementation == "eager"
    with pytest.raises(SelfExplainError, match=r"merged.* cannot be"):
        loaded.capture("The capital", [0])
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path / "full")
    loaded.save_pretrained(tmp_path / "again")
    assert files(tmp_path / "full") == files(tmp_path / "again")


def test_loading_options_apply_to_the_base_and_not_to_the_adapter(saved):
    loaded = AutoModelForCausalLM.from_pretrained(
        saved, dtype=torch.bfloat16, device_map="cpu", attn_implementation="eager", local_files_only=True
    )
    base = loaded.language_model
    assert base.dtype == torch.bfloat16 and base.config._attn_implementation == "eager"
    assert getattr(loaded, "hf_device_map", None) == getattr(base, "hf_device_map", None)
    assert loaded.model.activation_adapter.markers.dtype == torch.float32


@pytest.mark.parametrize("bits", [4, 8])
def test_the_adapter_of_a_quantised_base_is_in_full_precision(saved, bits):
    options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if bits == 4 else {"load_in_8bit": True}
    loaded = AutoModel.from_pretrained(saved, quantization_config=BitsAndBytesConfig(**options))
    assert getattr(loaded, f"is_loaded_in_{bits}bit") and loaded.is_quantized
    assert loaded.quantization_method == loaded.language_model.quantization_method
    weight = loaded.language_model.model.layers[0].mlp.up_proj.base_layer.weight
    assert weight.dtype == (torch.uint8 if bits == 4 else torch.int8)
    assert {parameter.dtype for parameter in loaded.model.activation_adapter.parameters()} == {torch.float32}
    assert loaded.explain_feature(torch.ones(32), layer=1).text is not None


def test_subfolder_and_revision_apply_to_the_explainer_and_not_to_its_base(saved, tmp_path, monkeypatch):
    (tmp_path / "repo").mkdir()
    shutil.move(saved, tmp_path / "repo" / "inner")
    calls = []
    load_base = AutoModelForCausalLM.from_pretrained

    def record(name, **options):
        calls.append(options)
        return load_base(name, **options)

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", record)
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path / "repo", subfolder="inner", revision="v2", token="t")
    assert loaded.processor is not None
    assert calls == [{"revision": None, "use_safetensors": True, "token": "t", "trust_remote_code": False}]


def test_trust_remote_code_loads_without_importing_selfexplain_first(saved):
    code = (
        "import sys; from transformers import AutoModel, AutoProcessor\n"
        "assert 'selfexplain' not in sys.modules\n"
        f"model = AutoModel.from_pretrained({str(saved)!r}, trust_remote_code=True)\n"
        f"processor = AutoProcessor.from_pretrained({str(saved)!r}, trust_remote_code=True)\n"
        "print(type(model).__module__, type(processor).__name__)\n"
        f"model.save_pretrained({str(saved) + '-again'!r})\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["selfexplain.modeling.modeling_selfexplainer", "SelfExplainerProcessor"]
    again = saved.parent / "saved-again"
    assert files(again) == files(saved)  # no copy of the package next to the shim


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def drop_lora_weight(saved):
    file = saved / "lora" / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(next(iter(weights)))
    save_file(weights, file)


def pickle_lora(saved):
    file = saved / "lora" / "adapter_model.safetensors"
    torch.save(load_file(file), saved / "lora" / "adapter_model.bin")
    file.unlink()


def change_base(saved):
    edit(saved / "config.json", lambda c: c.update(base_model_name_or_path="selfexplain/tiny"))


def pickle_base(saved):
    base = saved.parent / "base"
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()


DAMAGED = {
    "no config": (lambda d: (d / "config.json").unlink(), "It has no config.json"),
    "config cut short": (lambda d: truncate(d / "config.json"), "is not an explainer, or not a complete one"),
    "no adapter": (lambda d: (d / "activation_adapter.safetensors").unlink(), "the file activation_adapter.* does not"),
    "adapter cut short": (lambda d: truncate(d / "activation_adapter.safetensors"), "activation_adapter.* is damaged"),
    "no lora": (lambda d: shutil.rmtree(d / "lora"), "the file lora/adapter_model.safetensors does not exist"),
    "lora lacks a weight": (drop_lora_weight, r"adapter_model.safetensors lacks base_model"),
    "lora pickled": (pickle_lora, "the file lora/adapter_model.safetensors does not exist"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "not a complete one"),
    "golden vectors cut short": (lambda d: truncate(d / "injection_check.safetensors"), "injection_check.* is damaged"),
    "golden vectors edited": (lambda d: edit(d / "injection_check.json", lambda j: j["rows"].pop()), "do not match"),
    "a different adapter": (
        lambda d: edit(d / "config.json", lambda c: c["adapter"].update(kind="linear", layers=[0])),
        "activation_adapter.safetensors lacks weight",
    ),
    "an unknown contract": (
        lambda d: edit(d / "config.json", lambda c: c["injection"].update(site="logits")),
        "injection.site is 'logits', expected 'embedding'",
    ),
    "a newer contract": (
        lambda d: edit(d / "config.json", lambda c: c["injection"].update(spin=1)),
        "update selfexplain",
    ),
    "a different base": (change_base, "is not the one .* trained on: its num_hidden_layers is 8, expected 4"),
    "no base": (lambda d: shutil.rmtree(d.parent / "base"), "The base model .* could not be loaded"),
    "base pickled": (pickle_base, "The base model .* could not be loaded"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_explainer_is_refused_with_the_reason(saved, damage):
    change, message = DAMAGED[damage]
    change(saved)
    with pytest.raises(SelfExplainError, match=message):
        SelfExplainerForCausalLM.from_pretrained(saved)


def test_unknown_files_are_ignored(saved):
    (saved / "notes.txt").write_text("mine")
    (saved / "pytorch_model.bin").write_bytes(b"never read")
    assert SelfExplainerForCausalLM.from_pretrained(saved).processor is not None


def test_a_name_without_an_explainer_is_refused(target_dir):
    with pytest.raises(SelfExplainError, match="contains a model of type 'llama', not a self-explainer"):
        SelfExplainerForCausalLM.from_pretrained(target_dir)
    with pytest.raises(SelfExplainError, match="nobody/nothing is not an explainer"):
        SelfExplainerForCausalLM.from_pretrained("nobody/nothing")
    with pytest.raises(SelfExplainError, match="'nobody/nothing' could not be loaded"):
        SelfExplainerForCausalLM.from_base("nobody/nothing")


def test_an_explainer_whose_base_has_no_name_is_saved_with_it(target, tmp_path):
    explainer = SelfExplainerForCausalLM.from_base(target.model, target.tokenizer, lora={"rank": 4, "alpha": 8})
    randomise(explainer)
    explainer.save_pretrained(tmp_path)
    assert not explainer.config.merged  # the base still is the target
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded), logits(explainer))
    with pytest.raises(SelfExplainError, match="This explainer is merged"):
        loaded.capture("The capital", [0])


def test_an_explainer_without_a_processor_can_be_saved_and_loaded(target_dir, tmp_path):
    explainer = trained(target_dir)
    expected = logits(explainer)
    processor, explainer.processor = explainer.processor, None
    explainer.save_pretrained(tmp_path / "saved")
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path / "saved")
    with pytest.raises(SelfExplainError, match="This explainer has no processor"):
        loaded.explain_feature(torch.ones(32), layer=1)
    loaded.processor = processor
    torch.testing.assert_close(logits(loaded), expected)


def test_an_explainer_saved_without_the_check_is_not_checked_against_an_older_one(target_dir, tmp_path):
    first, second = trained(target_dir), trained(target_dir)
    with torch.no_grad():
        for name, weight in first.named_parameters():
            weight.mul_(3 if "lora_B" in name else 1)
        first.language_model.model.layers[0].mlp.up_proj.base_layer.weight.add_(0.1)
    first.save_pretrained(tmp_path)  # with the whole base
    second.save_pretrained(tmp_path, with_check=False)
    torch.testing.assert_close(logits(SelfExplainerForCausalLM.from_pretrained(tmp_path)), logits(second))


def test_explainers_and_targets_are_loaded_in_threads():
    """transformers and peft replace functions while they load, which other threads must not call meanwhile."""
    loads = [
        lambda: SelfExplainerForCausalLM.from_pretrained("selfexplain/tiny-selfexplainer").language_model,
        lambda: load_target("selfexplain/tiny").model,
    ]
    ids = torch.arange(3, 9)[None]
    with ThreadPoolExecutor(4) as pool:
        models = [future.result() for future in [pool.submit(load) for load in loads * 2]]
    for model, other in zip(models[:2], models[2:], strict=True):
        assert torch.equal(model(ids).logits, other(ids).logits)


def test_the_generation_config_is_that_of_the_base_and_is_saved(target_dir, tmp_path):
    edit(target_dir / "generation_config.json", lambda c: c.update(repetition_penalty=1.5, eos_token_id=[2, 9]))
    explainer = trained(target_dir)
    assert explainer.generation_config.repetition_penalty == 1.5
    answer = explainer.explain_feature(torch.ones(32), layer=1).text
    explainer.generation_config.max_new_tokens = 7
    explainer.generation_config.temperature = 0.5  # without do_sample, transformers refuses to save this
    explainer.save_pretrained(tmp_path / "saved")
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    assert loaded.generation_config.max_new_tokens == 7
    assert loaded.generation_config.eos_token_id == [2, 9]
    assert explainer.language_model.generation_config.max_new_tokens is None
    loaded.generation_config.repetition_penalty = 1.0
    assert loaded.explain_feature(torch.ones(32), layer=1).text == answer  # answers never depend on it


def test_the_decoder_is_that_of_the_base(target):
    explainer = SelfExplainerForCausalLM.from_base(target.model)
    assert explainer.get_decoder() is explainer.model.get_decoder() is target.model.model


def test_loading_info_is_returned_on_request(saved):
    loaded, info = AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True)
    assert isinstance(loaded, SelfExplainerForCausalLM)
    assert info == {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
    base = saved.parent / "base" / "model.safetensors"
    weights = load_file(base)
    weights["extra"] = weights.pop("model.norm.weight")
    save_file(weights, base, metadata={"format": "pt"})
    _, info = SelfExplainerForCausalLM.from_pretrained(saved, output_loading_info=True, check_injection=False)
    assert info["missing_keys"] == {"model.language_model.model.norm.weight"}
    assert info["unexpected_keys"] == {"model.language_model.extra"}


def test_a_configuration_alone_gives_random_weights(saved):
    config = AutoConfig.from_pretrained(saved)
    assert isinstance(SelfExplainerForCausalLM(config), SelfExplainerForCausalLM)

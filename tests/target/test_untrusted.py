"""Files of others are checked before a model is built: numbers, code, pickles and sizes."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from explainers import edit
from selfexplain.errors import SelfExplainError
from selfexplain.target.load import load_target, target_shape
from selfexplain.target.untrusted import (
    check_config,
    check_model_files,
    first_line,
    read_json,
    report_errors,
    without_attention,
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("bad\nmore"), "bad."),
        (OSError("It failed."), "It failed."),
        (KeyError(), "KeyError."),
        (KeyError("model_type"), "KeyError: 'model_type'."),
    ],
)
def test_the_first_line_of_an_error_ends_with_a_full_stop(error, line):
    assert first_line(error) == line


class PanicException(BaseException):
    """What Rust code raises through pyo3; it is not an `Exception`."""


@pytest.mark.parametrize("error", [TypeError("no"), StopIteration(), PanicException("index out of bounds")])
def test_errors_of_any_type_are_reported(error):
    message = f"^file x: {first_line(error)[:-1]}.* Do this.$"
    with pytest.raises(SelfExplainError, match=message), report_errors("file x", "Do this."):
        raise error
    with pytest.raises(KeyboardInterrupt, match="by hand"), report_errors("file x", "Do this."):
        raise KeyboardInterrupt("by hand")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "contains a JSON list, expected an object"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "is not valid JSON"),
        (" " * 200, "has 200 bytes, expected at most 100"),
    ],
)
def test_json_that_is_not_a_small_object_is_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(SelfExplainError, match=message):
        read_json(tmp_path / "x.json", "x.json", 100 if "bytes" in message else 10**7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, expected at most 10000"),
        ({"text_config": {"n_layer": 10**5}}, "n_layer is 100000, expected at most 10000"),
        ({"num_labels": 10**8}, "num_labels is 100000000"),
        ({"num_local_experts": 10**6}, "num_local_experts is 1000000"),
        ({"vocab_size": 10**30}, "vocab_size is 1"),
        ({"_attn_implementation": "someone/kernel"}, "would download and run as code"),
        ({"text_config": {"attn_implementation": {"": "someone/kernel:f"}}}, "would download and run as code"),
        ({"experts_implementation": "someone/kernel"}, "would download and run as code"),
        ({"transformers_weights": "../x.safetensors"}, "names the weight file '../x.safetensors'"),
    ],
)
def test_configurations_that_ask_for_too_much_are_refused(target_dir, fields, message):
    edit(target_dir / "config.json", lambda c: c.update(fields))
    with pytest.raises(SelfExplainError, match=message):
        check_model_files("it", str(target_dir), {})
    if "weight file" not in message:
        with pytest.raises(SelfExplainError, match=message):
            target_shape(str(target_dir))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"num_hidden_layers": 400},
            "num_hidden_layers in config.json is 400, but the weight files",
        ),
        ({"vocab_size": 10**9}, "describes a model with .* parameters, but the weight files contain"),
        ({"intermediate_size": 10**7}, "describes a model with"),
        ({"hidden_act": 5}, "config.json cannot be used"),
        ({"num_attention_heads": 0}, "config.json cannot be used"),
        ({"model_type": "nonsense"}, "config.json cannot be used"),
        ({"architectures": "x", "hidden_size": "y"}, "config.json cannot be used"),
    ],
)
def test_configurations_that_do_not_belong_to_the_weights_are_refused(target_dir, fields, message):
    edit(target_dir / "config.json", lambda c: c.update(fields))
    with pytest.raises(SelfExplainError, match=message):
        check_model_files("it", str(target_dir), {})


def test_an_attention_implementation_in_the_file_is_not_the_wish_of_the_caller(target_dir):
    edit(target_dir / "config.json", lambda c: c.update(_attn_implementation="eager"))
    options = without_attention(str(target_dir), {}, {})
    assert options["config"]._attn_implementation is None
    assert without_attention(str(target_dir), {}, {"attn_implementation": "eager"})["config"]._attn_implementation
    assert load_target(str(target_dir)).model.config._attn_implementation == "sdpa"
    assert load_target(str(target_dir), attn_implementation="eager").model.config._attn_implementation == "eager"


def shard(directory, **files):
    """Write an index that names the given file for every tensor."""
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    for name, file in files.items():
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, file)}
        (directory / f"model.safetensors.{name}.json").write_text(json.dumps(index))
    return weights


def test_sharded_weights_load(target_dir):
    weights = shard(target_dir, index="model-00001-of-00001.safetensors")
    save_file(weights, target_dir / "model-00001-of-00001.safetensors", {"format": "pt"})
    assert load_target(str(target_dir)).n_layers == 4


@pytest.mark.parametrize("file", ["w.bin", "../other/model.safetensors", "/etc/model.safetensors", "x.pt"])
def test_an_index_that_names_other_files_is_refused(target_dir, file):
    weights = shard(target_dir, index=file)
    torch.save(weights, target_dir / "w.bin")
    with pytest.raises(SelfExplainError, match=r"names the weight file .*docs/security.md"):
        load_target(str(target_dir))


def test_pickled_targets_are_refused_and_the_documented_command_converts_them(target_dir):
    weights = load_file(target_dir / "model.safetensors")
    torch.save(weights, target_dir / "pytorch_model.bin")
    (target_dir / "model.safetensors").unlink()
    with pytest.raises(SelfExplainError, match=r"has no model.safetensors. Pickled weights .* are not opened"):
        load_target(str(target_dir))


def test_code_in_a_repository_is_refused_without_a_question(target_dir, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda prompt="": pytest.fail("asked on the terminal"))
    canary = target_dir.parent / "canary"
    (target_dir / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    names = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", None]}
    edit(target_dir / "config.json", lambda c: c.update(auto_map=names, model_type="evil"))
    edit(target_dir / "tokenizer_config.json", lambda c: c.update(auto_map=names, tokenizer_class="Evil"))
    for load in (load_target, target_shape):
        with pytest.raises(SelfExplainError, match=r"'.*' (could not be loaded|is not)"):
            load(str(target_dir))
    assert not canary.exists()


def test_a_kind_of_model_that_transformers_knows_ignores_the_code(target_dir):
    edit(target_dir / "config.json", lambda c: c.update(auto_map={"AutoModelForCausalLM": "evil.M"}))
    assert load_target(str(target_dir)).n_layers == 4


def test_tied_and_quantised_weights_pass_the_size_check(target_dir):
    check_model_files("it", str(target_dir), {})
    check_model_files("selfexplain/tiny", str(shutil.copytree(tiny(), target_dir.parent / "tiny")), {})


def tiny():
    from selfexplain import bundled

    return bundled.resolve("selfexplain/tiny")


def test_valid_configurations_pass():
    for kind in ("llama", "gemma2", "qwen3_moe", "gpt2", "bloom", "mamba2", "gemma3", "llama4", "gemma3n"):
        check_config(transformers.AutoConfig.for_model(kind).to_dict(), kind)
    check_config({"shared_expert_intermediate_size": 20_480}, "Qwen2-57B-A14B")

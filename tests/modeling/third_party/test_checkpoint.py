"""Small files of third-party checkpoints are parsed, and directories without a checkpoint are refused."""

import json

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.modeling.third_party.checkpoint import read_checkpoint


def test_small_files_are_parsed(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "nla_meta.yaml").write_text("role: av\ntokens:\n  injection_token_id: 7\n")
    files = read_checkpoint(str(tmp_path), {})
    assert files.adapter == {"peft_type": "LORA"}
    assert files.sidecar == {"role": "av", "tokens": {"injection_token_id": 7}}
    assert files.model is None and files.oracle is None


def test_a_directory_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(SelfExplainError, match=r"contains neither config\.json nor adapter_config\.json"):
        SelfExplainerForCausalLM.from_third_party(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", r"config\.json could not be read"),
        ("config.json", "[1]", r"config\.json contains a list, expected a mapping"),
        ("nla_meta.yaml", "a: [", r"nla_meta\.yaml could not be read"),
        ("nla_meta.yaml", "text", r"nla_meta\.yaml contains a str, expected a mapping"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, content, message):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).write_text(content)
    with pytest.raises(SelfExplainError, match=message):
        read_checkpoint(str(tmp_path), {})


def test_an_explainer_of_this_package_is_refused():
    with pytest.raises(SelfExplainError, match="Load it with from_pretrained"):
        SelfExplainerForCausalLM.from_third_party("selfexplain/tiny-selfexplainer")
